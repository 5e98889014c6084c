// Prometheus histograms: read out of /metrics, compared, and asked for quantiles.

/** Cumulative counts {seconds: count} of a histogram: of the series that have `label`, together. */
export function histogram(exposition, name, label) {
  const counts = new Map();
  for (const line of exposition.split("\n")) {
    if (!line.startsWith(`${name}_bucket{`) || !line.includes(label)) continue;
    const edge = /le="([^"]+)"/.exec(line)[1];
    const seconds = edge === "+Inf" ? Infinity : Number(edge);
    counts.set(seconds, (counts.get(seconds) ?? 0) + Number(line.slice(line.lastIndexOf(" "))));
  }
  return new Map([...counts].sort(([a], [b]) => a - b));
}

/** What came between two readings. */
export function since(now, before) {
  return new Map([...now].map(([edge, count]) => [edge, count - (before.get(edge) ?? 0)]));
}

export function total(counts) {
  return [...counts.values()].at(-1) ?? 0;
}

/** Milliseconds, by a straight line within the bucket; null of nothing. */
export function quantile(counts, share) {
  const wanted = share * total(counts);
  if (wanted === 0) return null;
  let low = 0;
  let below = 0;
  for (const [edge, count] of counts) {
    if (count >= wanted) {
      const high = Number.isFinite(edge) ? edge : low;
      return 1000 * (low + ((high - low) * (wanted - below)) / (count - below));
    }
    [low, below] = [edge, count];
  }
  return null;
}
