/*
 * lx_status.c - filling in an error context
 * SPDX-License-Identifier: Apache-2.0
 */
#include "lx_status.h"

#include <stdio.h>
#include <string.h>

lx_status lx_fail_at(lx_err *err, lx_status status, const char *file, int line, const char *format,
                     ...)
{
    if (!err)
        return status;
    /* The arguments may point into err->message itself (a message wrapped into a new failure). */
    char text[LX_ERR_TEXT];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    memcpy(err->message, text, sizeof text);
    err->status = status;
    err->file = file;
    err->line = line;
    return status;
}

lx_status(lx_wrap)(lx_err *err, const char *format, ...)
{
    if (!err)
        return LX_EJOB;
    char prefix[LX_ERR_TEXT / 2];
    va_list args;
    va_start(args, format);
    vsnprintf(prefix, sizeof prefix, format, args);
    va_end(args);
    char text[2 * LX_ERR_TEXT];
    snprintf(text, sizeof text, "%s: %s", prefix, err->message);
    text[LX_ERR_TEXT - 1] = 0;
    memcpy(err->message, text, LX_ERR_TEXT);
    return err->status;
}

void lx_err_clear(lx_err *err)
{
    if (err)
        *err = (lx_err){0};
}

static const struct {
    const char *name;
    int exit_code;
} status_table[] = {
    [LX_OK] = {"ok", 0},
    [LX_EAGAIN] = {"again", 3},
    [LX_EJOB] = {"job", 1},
    [LX_ESTAGE] = {"stage", 1},
    [LX_ECONFIG] = {"config", 2},
    [LX_ETIMEOUT] = {"timeout", 4},
    [LX_ECANCEL] = {"cancelled", 130},
};

const char *lx_status_name(lx_status status)
{
    return (unsigned)status <= LX_ECANCEL ? status_table[status].name : "unknown";
}

int lx_exit_code(lx_status status)
{
    return (unsigned)status <= LX_ECANCEL ? status_table[status].exit_code : 1;
}
