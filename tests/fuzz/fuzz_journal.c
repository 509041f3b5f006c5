/*
 * fuzz_journal.c - any bytes as a journal: read, cut or refused, never a crash
 * SPDX-License-Identifier: Apache-2.0
 *
 * The bytes stand behind a good head, so that they are looked at as records; and each is also tried
 * as the payload of a record whose CRC holds, by its first byte's type.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "journal.h"
#include "lx_crc32c.h"

/* What journal_record.h promises of a decoded fact: it can be written, and is the same. */
static lx_status check_fact(void *self, const journal_fact *fact, lx_err *err)
{
    static unsigned char bytes[JOURNAL_RECORD_BYTES + JOURNAL_PAYLOAD_MAX];
    static journal_fact again;
    (void)self;
    journal_record record;
    size_t n = journal_encode(fact, fact->sequence, 0, bytes);
    if (journal_record_look(bytes, n, &record) != JOURNAL_GOOD || record.bytes != n ||
        journal_decode(&record, &again, err) != LX_OK || memcmp(&again, fact, sizeof again))
        abort();
    if (fact->type == JOURNAL_ACCEPTED && lx_job_check(&fact->job, NULL) != LX_OK)
        abort();
    return LX_OK;
}

static void read_as_file(const uint8_t *data, size_t size)
{
    static journal_fact fact;
    journal_scan scan;
    lx_err err = {0};
    unsigned char head[JOURNAL_HEAD_BYTES];
    int fd = memfd_create("journal", 0);
    journal_head_encode(head, 1);
    if (fd < 0 || write(fd, head, sizeof head) < 0 || write(fd, data, size) < 0)
        abort();
    for (int salvage = 0; salvage < 2; salvage++) {
        if (journal_read(fd, salvage, &fact, check_fact, NULL, &scan, &err) != LX_OK)
            abort();
        if (scan.end > JOURNAL_HEAD_BYTES + size || scan.cut_bytes > size ||
            scan.damage_at > JOURNAL_HEAD_BYTES + size)
            abort();
    }
    close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static journal_fact fact;
    lx_err err = {0};
    uint64_t first;
    journal_head_check(data, size, &first, &err);
    read_as_file(data, size);
    if (size < 1 || size > JOURNAL_PAYLOAD_MAX)
        return 0;
    journal_record record = {.sequence = 1,
                             .type = (uint16_t)(data[0] % (JOURNAL_TYPE_COUNT + 1)),
                             .payload = data + 1,
                             .payload_bytes = size - 1};
    if (journal_decode(&record, &fact, &err) == LX_OK)
        check_fact(NULL, &fact, &err);
    else if (err.status != LX_ECONFIG || !err.message[0])
        abort();
    return 0;
}
