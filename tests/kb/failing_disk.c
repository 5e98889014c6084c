/* fsync and fdatasync fail with EIO while the file named by FAILING_DISK exists and the synchronised file's name ends
   with its content. If the content starts with "once:", the file is removed by the first failure. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int fails(int fd) {
    const char *switch_path = getenv("FAILING_DISK");
    if (switch_path == NULL) return 0;
    int file = open(switch_path, O_RDONLY);
    if (file < 0) return 0;
    char suffix[256] = {0}, link[64], name[4096] = {0};
    ssize_t length = read(file, suffix, sizeof suffix - 1);
    close(file);
    if (length < 0) return 0;
    int once = strncmp(suffix, "once:", 5) == 0;
    const char *ending = once ? suffix + 5 : suffix;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (readlink(link, name, sizeof name - 1) < 0) return 0;
    size_t n = strlen(name), s = strlen(ending);
    if (n < s || strcmp(name + n - s, ending) != 0) return 0;
    if (once) unlink(switch_path);
    return 1;
}

int fsync(int fd) {
    if (fails(fd)) { errno = EIO; return -1; }
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd);
}

int fdatasync(int fd) {
    if (fails(fd)) { errno = EIO; return -1; }
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd);
}
