import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

/** Java's own client on its defaults, which offer HTTP/2 with every first request: `java Ask.java URL`.
 * Reads lines "NAME PATH BODY" and prints for each what came, line by line, with the name before it. */
public class Ask {
  public static void main(String[] given) throws Exception {
    HttpClient client = HttpClient.newHttpClient();
    try (var in = new java.io.BufferedReader(new java.io.InputStreamReader(System.in, "UTF-8"))) {
      for (String line = in.readLine(); line != null; line = in.readLine()) {
        String[] asked = line.split(" ", 3);
        ask(client, asked[0], URI.create(given[0] + asked[1]), asked[2]);
      }
    }
  }

  private static void ask(HttpClient client, String name, URI uri, String body)
      throws IOException, InterruptedException {
    HttpRequest request =
        HttpRequest.newBuilder(uri)
            .header("Content-Type", "application/json")
            .POST(HttpRequest.BodyPublishers.ofString(body))
            .build();
    var response = client.send(request, HttpResponse.BodyHandlers.ofLines());
    System.out.println(name + " " + response.statusCode());
    response.body().filter(line -> !line.isEmpty()).forEach(line -> System.out.println(name + " " + line));
  }
}
