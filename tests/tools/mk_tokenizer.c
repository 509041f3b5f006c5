/*
 * mk_tokenizer.c - a small Unigram tokenizer with the structure of UMT5's
 * SPDX-License-Identifier: Apache-2.0
 *
 * Ids as UMT5's, scaled down: 4 specials, 13 user-defined pieces, 256 byte pieces,
 * a lone U+2581, ASCII characters, words with and without the space mark, then the 300
 * <extra_id_K> in falling order (none if the vocabulary is too small for them). Scores are float32,
 * distinct, printed exactly, so tokenizer.json and spiece.model agree.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mk.h"

#define MAX_PIECES 4096
#define EXTRA      300                     /* <extra_id_K> */
#define LEAST      (4 + 13 + 256 + 1 + 94) /* everything but words */
#define SPACE      "\xe2\x96\x81"          /* U+2581 */

enum { TYPE_NORMAL = 1, TYPE_UNKNOWN = 2, TYPE_CONTROL = 3, TYPE_USER = 4, TYPE_BYTE = 6 };

typedef struct piece {
    char text[24];
    float score;
    int type;
} piece;

/* By falling frequency, more or less; prompts are made of these. */
static const char words[] =
    "the a of and in to is on with at by from for as it an two one red blue green white black "
    "yellow golden silver dark light bright soft warm cold small large big old young new man woman "
    "boy girl child people person dog cat bird horse fish fox bear lion tiger rabbit ball car "
    "train "
    "boat ship plane bike road street city house room door window table chair tree trees forest "
    "mountain mountains river lake sea ocean beach sand snow rain wind cloud clouds sky sun moon "
    "star stars fire water ice smoke fog night day morning evening sunset sunrise summer winter "
    "spring autumn walks walking runs running rolls rolling jumps jumping flies flying swims "
    "swimming sits sitting stands standing dances dancing plays playing eats eating drinks looks "
    "looking smiles smiling talks sings sleeps rides riding drives driving falls falling rises "
    "turns turning moves moving slowly quickly gently softly left right up down over under through "
    "across along around behind between into near next front back side top bottom high low close "
    "far camera shot view angle wide closeup portrait landscape cinematic film scene style "
    "realistic photo detailed detail quality background foreground focus motion slow fast lens pan "
    "zoom tracking aerial drone handheld hand hands face eyes hair head dress shirt hat glasses "
    "coat suit shoes flower flowers grass leaf leaves field garden park bridge tower castle temple "
    "church market shop cafe restaurant kitchen bedroom office school museum stage concert music "
    "piano guitar violin drum dance robot space planet rocket astronaut dragon knight wizard magic "
    "city neon glass metal wood stone paper cup coffee tea bread cake apple fruit food his her its "
    "their he she they we you that this these those there where while when then which who what "
    "has have had was were are be been being will would can could not no all some many few more "
    "most very each every other another same only just like against before after during "
    "s ing ed er ly es en al ion ness ment able ful less un re in on st th ch sh ck qu";

typedef struct pieces {
    piece p[MAX_PIECES];
    int n, limit;
} pieces;

static bool has(const pieces *list, const char *text)
{
    for (int i = 0; i < list->n; i++)
        if (!strcmp(list->p[i].text, text))
            return true;
    return false;
}

static void add(pieces *list, const char *text, double score, int type)
{
    if (list->n >= list->limit || has(list, text))
        return;
    piece *p = &list->p[list->n++];
    snprintf(p->text, sizeof p->text, "%s", text);
    p->score = (float)score;
    p->type = type;
}

static void add_fixed(pieces *list)
{
    static const char *const special[] = {"<pad>", "</s>", "<s>"};
    static const char *const user[] = {"[eod]", "[web]", "[u06]", "[u07]", "[u08]",
                                       "[u09]", "[u10]", "[u11]", "[u12]", "[u13]",
                                       "[u14]", "[u15]", "[u16]"};
    char text[24];
    for (int i = 0; i < 3; i++)
        add(list, special[i], 0, TYPE_CONTROL);
    add(list, "<unk>", 0, TYPE_UNKNOWN);
    for (int i = 0; i < 13; i++)
        add(list, user[i], 0, TYPE_USER);
    for (int i = 0; i < 256; i++) {
        snprintf(text, sizeof text, "<0x%02X>", (unsigned)i);
        add(list, text, 0, TYPE_BYTE);
    }
    add(list, SPACE, -3.2, TYPE_NORMAL);
}

/* Characters before words: they must fit into any vocabulary. A word in one piece beats its
 * letters; with a space mark it beats the mark and the word. */
static void add_normal(pieces *list)
{
    char text[24], word[20];
    for (int c = 0x21; c < 0x7f; c++) {
        snprintf(text, sizeof text, "%c", c);
        add(list, text, -9 - 0.01 * (c - 0x21), TYPE_NORMAL);
    }
    int rank = 0;
    for (const char *p = words; *p; rank++) {
        size_t n = strcspn(p, " ");
        snprintf(word, sizeof word, "%.*s", (int)n, p);
        p += n + (p[n] == ' ');
        snprintf(text, sizeof text, SPACE "%s", word);
        add(list, text, -4 - log(1.0 + rank), TYPE_NORMAL);
        add(list, word, -5 - log(1.5 + rank), TYPE_NORMAL);
    }
}

static void put_json_text(FILE *out, const char *text)
{
    fputc('"', out);
    for (; *text; text++)
        fprintf(out, *text == '"' || *text == '\\' ? "\\%c" : "%c", *text);
    fputc('"', out);
}

static void put_added(FILE *out, int id, const char *text, bool is_last)
{
    fprintf(out,
            "{\"id\":%d,\"content\":\"%s\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,"
            "\"normalized\":false,\"special\":true}%s\n",
            id, text, is_last ? "" : ",");
}

static bool write_json(const char *path, const pieces *list, int n_extra)
{
    FILE *out = fopen(path, "we");
    if (!out)
        return mk_failed(path, "cannot be written");
    char text[32];
    fputs("{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[\n", out);
    for (int i = 0; i < 4; i++)
        put_added(out, i, list->p[i].text, i == 3 && !n_extra);
    for (int i = 0; i < n_extra; i++) {
        snprintf(text, sizeof text, "<extra_id_%d>", n_extra - 1 - i);
        put_added(out, list->n + i, text, i == n_extra - 1);
    }
    fputs("],\n\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"Regex\":\" {2,}\"},\"content\":"
          "\" \"},\n\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"" SPACE
          "\",\"prepend_scheme\":\"always\",\"split\":true},\n"
          "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"Sequence\":{\"id\":"
          "\"A\",\"type_id\":0}},{\"SpecialToken\":{\"id\":\"</s>\",\"type_id\":0}}],\"pair\":[{"
          "\"Sequence\":{\"id\":\"A\",\"type_id\":0}},{\"SpecialToken\":{\"id\":\"</s>\","
          "\"type_id\":0}},{\"Sequence\":{\"id\":\"B\",\"type_id\":0}},{\"SpecialToken\":{\"id\":"
          "\"</s>\",\"type_id\":0}}],\"special_tokens\":{\"</s>\":{\"id\":\"</s>\",\"ids\":[1],"
          "\"tokens\":[\"</s>\"]}}},\n"
          "\"decoder\":{\"type\":\"Metaspace\",\"replacement\":\"" SPACE
          "\",\"prepend_scheme\":\"always\",\"split\":true},\n"
          "\"model\":{\"type\":\"Unigram\",\"unk_id\":3,\"vocab\":[\n",
          out);
    for (int i = 0; i < list->n; i++) {
        fputc('[', out);
        put_json_text(out, list->p[i].text);
        fprintf(out, ",%.17g]%s\n", (double)list->p[i].score, i + 1 < list->n ? "," : "");
    }
    fputs("],\"byte_fallback\":false}}\n", out);
    bool ok = !ferror(out);
    return (!fclose(out) && ok) || mk_failed(path, "cannot be written");
}

/* --- spiece.model: a protobuf ---------------------------------------------------------------- */

static void varint(FILE *out, unsigned value)
{
    for (; value >= 128; value >>= 7)
        fputc((int)(value & 127) | 128, out);
    fputc((int)value, out);
}

static void put_piece(FILE *out, const piece *p)
{
    unsigned n = (unsigned)strlen(p->text);
    varint(out, 1 << 3 | 2); /* ModelProto.pieces */
    varint(out, 2 + n + 5 + 2);
    varint(out, 1 << 3 | 2); /* piece */
    varint(out, n);
    fputs(p->text, out);
    varint(out, 2 << 3 | 5); /* score */
    fwrite(&p->score, 4, 1, out);
    varint(out, 3 << 3 | 0); /* type */
    varint(out, (unsigned)p->type);
}

static bool write_spiece(const char *path, const pieces *list)
{
    FILE *out = fopen(path, "wbe");
    if (!out)
        return mk_failed(path, "cannot be written");
    for (int i = 0; i < list->n; i++)
        put_piece(out, &list->p[i]);
    /* TrainerSpec (2): model_type 3 = unigram, byte_fallback 35, unk/bos/eos/pad ids 40-43. */
    static const unsigned trainer[][2] = {{3, 1}, {35, 1}, {40, 3}, {41, 2}, {42, 1}, {43, 0}};
    varint(out, 2 << 3 | 2);
    varint(out, 2 + 5 * 3);
    for (size_t i = 0; i < sizeof trainer / sizeof *trainer; i++) {
        varint(out, trainer[i][0] << 3);
        varint(out, trainer[i][1]);
    }
    /* NormalizerSpec (3): name "identity", add_dummy_prefix, not remove_extra_whitespaces. */
    varint(out, 3 << 3 | 2);
    varint(out, 2 + 8 + 2 + 2 + 2);
    fputs("\x0a\x08identity\x18\x01 ", out); /* fields 1, 3; 0x20 = field 4 ... */
    fputc(0, out);
    fputs("\x28\x01", out); /* field 5: escape_whitespaces */
    bool ok = !ferror(out);
    return (!fclose(out) && ok) || mk_failed(path, "cannot be written");
}

bool mk_write_tokenizer(const char *folder, int64_t vocab)
{
    pieces *list = calloc(1, sizeof *list);
    char path[4096];
    if (!list)
        return mk_failed(folder, "no memory");
    int n_extra = vocab >= LEAST + EXTRA ? EXTRA : 0;
    int64_t limit = vocab - n_extra;
    list->limit = limit < MAX_PIECES ? (int)limit : MAX_PIECES;
    add_fixed(list);
    add_normal(list);
    bool ok = list->n >= LEAST;
    if (!ok)
        fprintf(stderr, "lx2v-mkmodel: a vocabulary of %lld is too small for a tokenizer (%d)\n",
                (long long)vocab, LEAST);
    snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    ok = ok && write_json(path, list, n_extra);
    /* spiece.model does not list the extra ids; its readers add all of them. */
    snprintf(path, sizeof path, "%s/spiece.model", folder);
    ok = ok && (!n_extra || write_spiece(path, list));
    free(list);
    return ok;
}
