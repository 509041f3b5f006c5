/*
 * replay.c - run a fuzz target over the files of a folder, as an ordinary test
 * SPDX-License-Identifier: Apache-2.0
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay(const char *folder, const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "rb");
    if (!file)
        return 0;
    static uint8_t bytes[4 << 20];
    size_t n = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    uint8_t *copy = malloc(n ? n : 1); /* exact size, so that a sanitizer sees an overrun */
    for (size_t i = 0; copy && i < n; i++)
        copy[i] = bytes[i];
    if (copy)
        LLVMFuzzerTestOneInput(copy, n);
    free(copy);
    return 1;
}

int main(int argc, char **argv)
{
    int n = 0;
    for (int i = 1; i < argc; i++) {
        DIR *dir = opendir(argv[i]);
        if (!dir) {
            fprintf(stderr, "%s: no such corpus\n", argv[i]);
            return 1;
        }
        for (struct dirent *entry; (entry = readdir(dir));)
            if (entry->d_name[0] != '.')
                n += replay(argv[i], entry->d_name);
        closedir(dir);
    }
    printf("%d inputs replayed\n", n);
    return n > 0 ? 0 : 1;
}
