/*
 * cli_order.c - lx2v cancel, retry, pause, resume, drain, shutdown
 * SPDX-License-Identifier: Apache-2.0
 */
#include <inttypes.h>
#include <stdlib.h>

#include "cli.h"

static bool takes_ids(lx_client_order order)
{
    return order == LX_CLIENT_CANCEL || order == LX_CLIENT_RETRY;
}

static lx_status check_words(const cli_command *self, const cli_args *args, lx_err *err)
{
    if (takes_ids(self->order) && args->n_words == 0)
        return lx_fail(err, LX_ECONFIG, "%s: which job? lx2v list names them", self->name);
    if (!takes_ids(self->order) && args->n_words > 0)
        return lx_fail(err, LX_ECONFIG, "%s: \"%.64s\" is too much; it takes no words", self->name,
                       args->words[0]);
    return LX_OK;
}

/* No answer to a drain is no silence: the last job has not ended. How many are left? */
static lx_status drain_goes_on(lx_client *client, double timeout_s, lx_err *err)
{
    lx_client_summary left;
    lx_err why = {0};
    if (lx_client_query(client, NULL, NULL, &left, &why) != LX_OK)
        return LX_ETIMEOUT; /* silent indeed */
    return lx_fail(err, LX_ETIMEOUT,
                   "the launcher is %s; after %.1f s %" PRId64 " queued and %" PRId64
                   " running jobs are left (lx2v drain waits again, lx2v resume ends it)",
                   left.state, timeout_s, left.n_queued, left.n_running);
}

static lx_status give(const cli_command *self, lx_client_order order, const cli_args *args,
                      lx_err *err)
{
    lx_client *client = NULL;
    /* Drain is answered when the queue is empty: as long as that takes. */
    double timeout_s = args->common.timeout_s > 0       ? args->common.timeout_s
                       : self->order == LX_CLIENT_DRAIN ? -1
                                                        : 0;
    lx_status status = cli_connect(&client, &args->common, err);
    if (status == LX_OK && !takes_ids(self->order))
        status = lx_client_command(client, order, NULL, timeout_s, err);
    if (client && status == LX_ETIMEOUT && self->order == LX_CLIENT_DRAIN)
        status = drain_goes_on(client, timeout_s, err);
    for (int i = 0; status == LX_OK && takes_ids(self->order) && i < args->n_words; i++)
        status = lx_client_command(client, self->order, args->words[i], timeout_s, err);
    lx_client_close(&client);
    if (status != LX_OK)
        return status;
    if (args->common.json)
        cli_json_print(json_pack("{s:b, s:s}", "ok", 1, "command", self->name));
    else
        cli_say("%s: ok", self->name);
    return LX_OK;
}

lx_status cli_order(const cli_command *self, int argc, char **argv, lx_err *err)
{
    cli_args args = {0};
    bool done = false, release = false;
    const cli_flag flags[] = {{"release-vram", 0, NULL,
                               "running jobs end, then the cards are left free until resume", NULL,
                               &release}};
    bool is_pause = self->order == LX_CLIENT_PAUSE;
    lx_status status = cli_begin(self, &args, argc, argv, flags, is_pause, &done, err);
    if (status == LX_OK && !done)
        status = check_words(self, &args, err);
    if (status == LX_OK && !done)
        status = give(self, release ? LX_CLIENT_RELEASE : self->order, &args, err);
    free(args.words);
    return status;
}
