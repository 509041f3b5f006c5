/*
 * tokenizer_json.c - the vocabulary from Hugging Face's tokenizer.json
 * SPDX-License-Identifier: Apache-2.0
 *
 * Only UMT5's pipeline is understood: a file that describes another one is
 * refused with the key that differs, because its ids would silently be wrong.
 */
#include <jansson.h>
#include <string.h>

#include "tokenizer_build.h"

#define META_SPACE "\xE2\x96\x81"

static bool is_text(const json_t *value, const char *text)
{
    return json_is_string(value) && strcmp(json_string_value(value), text) == 0;
}

static const char *type_of(const json_t *object)
{
    const char *type = json_string_value(json_object_get(object, "type"));
    return type ? type : json_is_null(object) ? "null" : "(none)";
}

/* A Sequence of one is the same as the one. */
static const json_t *unwrap(const json_t *object, const char *list)
{
    const json_t *items = json_object_get(object, list);
    if (is_text(json_object_get(object, "type"), "Sequence") && json_array_size(items) == 1)
        return json_array_get(items, 0);
    return object;
}

static lx_status check_normalizer(const json_t *root, lx_err *err)
{
    const json_t *n = unwrap(json_object_get(root, "normalizer"), "normalizers");
    const json_t *pattern = json_object_get(json_object_get(n, "pattern"), "Regex");
    if (is_text(json_object_get(n, "type"), "Replace") && is_text(pattern, " {2,}") &&
        is_text(json_object_get(n, "content"), " "))
        return LX_OK;
    return lx_fail(err, LX_ECONFIG,
                   "normalizer is \"%s\": UMT5's only replaces \" {2,}\" by \" \"; this is the "
                   "tokenizer of another model",
                   type_of(n));
}

static lx_status check_pre_tokenizer(const json_t *root, lx_err *err)
{
    const json_t *p = unwrap(json_object_get(root, "pre_tokenizer"), "pretokenizers");
    const json_t *scheme = json_object_get(p, "prepend_scheme");
    const json_t *old = json_object_get(p, "add_prefix_space"); /* the same, in older files */
    bool prepends = scheme ? is_text(scheme, "always") : !old || json_is_true(old);
    if (is_text(json_object_get(p, "type"), "Metaspace") &&
        is_text(json_object_get(p, "replacement"), META_SPACE) && prepends &&
        !json_is_false(json_object_get(p, "split")))
        return LX_OK;
    return lx_fail(err, LX_ECONFIG,
                   "pre_tokenizer is \"%s\": UMT5's is Metaspace with replacement U+2581, always "
                   "prepended, split; this is the tokenizer of another model",
                   type_of(p));
}

/* "$A </s>": the id of what is appended. */
static lx_status read_post_processor(const json_t *root, int32_t *eos_id, lx_err *err)
{
    const json_t *p = unwrap(json_object_get(root, "post_processor"), "processors");
    const json_t *single = json_object_get(p, "single");
    const json_t *text = json_object_get(json_array_get(single, 0), "Sequence");
    const json_t *special = json_object_get(json_array_get(single, 1), "SpecialToken");
    const char *name = json_string_value(json_object_get(special, "id"));
    if (!is_text(json_object_get(p, "type"), "TemplateProcessing") ||
        json_array_size(single) != 2 || !is_text(json_object_get(text, "id"), "A") || !name)
        return lx_fail(err, LX_ECONFIG,
                       "post_processor is \"%s\": UMT5's is TemplateProcessing with one token "
                       "after the text; this is the tokenizer of another model",
                       type_of(p));
    const json_t *entry = json_object_get(json_object_get(p, "special_tokens"), name);
    const json_t *ids = json_object_get(entry, "ids");
    const json_t *id = json_array_get(ids, 0);
    if (json_array_size(ids) != 1 || !json_is_integer(id) || json_integer_value(id) < 0 ||
        json_integer_value(id) > INT32_MAX)
        return lx_fail(err, LX_ECONFIG, "post_processor: \"%s\" must have one id from 0", name);
    *eos_id = (int32_t)json_integer_value(id);
    return LX_OK;
}

static lx_status read_model(const json_t *root, tokenizer_parts *parts, lx_err *err)
{
    const json_t *model = json_object_get(root, "model");
    if (!is_text(json_object_get(model, "type"), "Unigram"))
        return lx_fail(err, LX_ECONFIG, "model is \"%s\": UMT5's is Unigram", type_of(model));
    if (json_is_true(json_object_get(model, "byte_fallback")))
        return lx_fail(err, LX_ECONFIG, "model.byte_fallback is true: UMT5's is false");
    const json_t *unk = json_object_get(model, "unk_id");
    const json_t *vocab = json_object_get(model, "vocab");
    size_t n = json_array_size(vocab);
    if (n < 1 || n > TOKENIZER_PIECES)
        return lx_fail(err, LX_ECONFIG, "model.vocab has %zu entries: 1 to %d are possible", n,
                       TOKENIZER_PIECES);
    if (!json_is_integer(unk) || json_integer_value(unk) < 0 ||
        json_integer_value(unk) >= (json_int_t)n)
        return lx_fail(err, LX_ECONFIG, "model.unk_id must be an id from 0 to %zu", n - 1);
    parts->unk_id = (int32_t)json_integer_value(unk);
    for (size_t i = 0; i < n; i++) {
        const json_t *pair = json_array_get(vocab, i);
        const json_t *text = json_array_get(pair, 0), *score = json_array_get(pair, 1);
        if (json_array_size(pair) != 2 || !json_is_string(text) || !json_is_number(score))
            return lx_fail(err, LX_ECONFIG, "model.vocab[%zu] must be [piece, score]", i);
        lx_status status =
            piece_index_add(&parts->pieces, json_string_value(text), json_string_length(text),
                            (int32_t)i, json_number_value(score), err);
        if (status != LX_OK)
            return lx_wrap(err, "model.vocab");
    }
    return piece_index_sort(&parts->pieces, err);
}

/* One added token. Where the vocabulary has it too, both must agree; else its id lies above. */
static lx_status read_added(const json_t *token, tokenizer_parts *parts, lx_err *err)
{
    static const char *const flags[] = {"single_word", "lstrip", "rstrip", "normalized"};
    const json_t *content = json_object_get(token, "content");
    const json_t *id = json_object_get(token, "id");
    if (!json_is_string(content) || !json_is_integer(id) || json_integer_value(id) < 0 ||
        json_integer_value(id) >= 2 * TOKENIZER_PIECES)
        return lx_fail(err, LX_ECONFIG, "needs a string `content` and an `id` from 0 to %d",
                       2 * TOKENIZER_PIECES - 1);
    const char *text = json_string_value(content);
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        if (json_is_true(json_object_get(token, flags[i])))
            return lx_fail(err, LX_ECONFIG, "\"%s\" has %s: UMT5's tokens are matched literally",
                           text, flags[i]);
    int32_t value = (int32_t)json_integer_value(id);
    size_t length = json_string_length(content);
    const piece *known = piece_index_find(&parts->pieces, text, length);
    if (known ? known->id != value : (size_t)value < parts->pieces.n)
        return lx_fail(err, LX_ECONFIG, "\"%s\" has id %d, but model.vocab says otherwise", text,
                       value);
    return piece_index_add(&parts->literals, text, length, value, 0, err);
}

static lx_status read_added_tokens(const json_t *root, tokenizer_parts *parts, lx_err *err)
{
    const json_t *list = json_object_get(root, "added_tokens");
    size_t n = json_array_size(list);
    if (!json_is_array(list) || n > TOKENIZER_LITERALS)
        return lx_fail(err, LX_ECONFIG, "added_tokens: a list of at most %d is expected",
                       TOKENIZER_LITERALS);
    for (size_t i = 0; i < n; i++)
        if (read_added(json_array_get(list, i), parts, err) != LX_OK)
            return lx_wrap(err, "added_tokens[%zu]", i);
    return piece_index_sort(&parts->literals, err);
}

lx_status tokenizer_read_json(tokenizer_parts *parts, const char *data, size_t bytes, lx_err *err)
{
    json_error_t error;
    json_t *root = json_loadb(data, bytes, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    if (!root)
        return lx_fail(err, LX_ECONFIG, "line %d, column %d: %s", error.line, error.column,
                       error.text);
    lx_status status = read_model(root, parts, err);
    if (status == LX_OK)
        status = read_added_tokens(root, parts, err);
    if (status == LX_OK)
        status = check_normalizer(root, err);
    if (status == LX_OK)
        status = check_pre_tokenizer(root, err);
    if (status == LX_OK)
        status = read_post_processor(root, &parts->eos_id, err);
    json_decref(root);
    return status;
}
