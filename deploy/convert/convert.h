/*
 * convert.h - a checkpoint in another form: bf16 to int8 or fp8, and back to bf16
 * SPDX-License-Identifier: Apache-2.0
 *
 * Role      The parts of lx2v-convert. A DiT becomes one safetensors file or LightX2V's per-block
 *           folder (block_N.safetensors, non_block.safetensors, an index); a text encoder one
 *           .pth or safetensors file.
 * Values    What LightX2V's converter quantizes, the linears of the blocks, becomes codes and one
 *           F32 scale per output row (lx_quantize.h); the rest keeps the type that it has. To bf16
 *           everything becomes BF16: code x scale, rounded once. Codes of the wanted type are
 *           copied. int8 to fp8 or back is refused: each loses, together they lose more.
 * Promise   The same source gives the same bytes, on every machine and with any number of threads.
 *           Output appears when all of it is whole, or not at all; memory is a few megabytes for
 *           each thread, whatever the size of the model.
 * Tests     tests/unit/test_convert.c
 */
#ifndef CONVERT_H
#define CONVERT_H

#include "weights/lx_catalog.h"
#include "weights/lx_model_dir.h"

/* What the command line says. Texts are borrowed from argv. */
typedef struct convert_job {
    const char *source;
    const char *file, *folder; /* where it goes: one of the two */
    lx_quant to;               /* LX_QUANT_NONE: bf16 */
    bool is_text, is_forced, is_quiet;
    int threads;
} convert_job;

/* What is done with a tensor's values. */
typedef enum convert_how {
    CONVERT_KEEP, /* the same type; codes bring their scales */
    CONVERT_ROUND,
    CONVERT_QUANTIZE,
    CONVERT_DEQUANTIZE,
} convert_how;

typedef struct convert_tensor {
    lx_weight from;   /* borrowed from the plan's weights */
    lx_extent extent; /* .disk NULL: the values are in memory */
    convert_how how;
    lx_dtype dtype;   /* that it becomes */
    char *scale_name; /* owned; NULL: it has no scale then */
    int file;         /* index into the plan's files */
} convert_tensor;

typedef struct convert_file {
    char name[32];   /* of a per-block folder; "" for the one file */
    size_t first, n; /* tensors of the plan */
} convert_file;

typedef struct convert_plan {
    const convert_job *job;
    lx_weights *weights;    /* owned */
    lx_quant from;          /* how the source is stored */
    convert_tensor *tensor; /* owned, by file, then in natural order of names */
    size_t n;
    convert_file *file; /* owned */
    size_t n_files;
    uint64_t bytes, bytes_out; /* of values: read, written */
    size_t n_left_out;         /* tensors of the source that this model does not have */
} convert_plan;

/** Open the source, check that it is the model it should be, and lay the output out. LX_ECONFIG:
 *  what the source is, or why it is not converted. */
lx_status convert_plan_make(convert_plan *out, const convert_job *job, lx_err *err);
void convert_plan_free(convert_plan *plan);

/* Where output grows until it is whole (convert_place.c). */
typedef struct convert_place {
    char folder[LX_PATH_MAX]; /* of a per-block output */
    char temp[LX_PATH_MAX];   /* folder within it; "": none was made */
    bool has_made_folder;
} convert_place;

/** Look before anything is read: LX_ECONFIG if output is there and not forced, or is the source. */
lx_status convert_place_check(const convert_job *job, lx_err *err);
/** Make folders. LX_ECONFIG: others' block files lie there; LX_EAGAIN: the disk is full. */
lx_status convert_place_open(convert_place *out, const convert_plan *plan, lx_err *err);
/** Path of a file while it grows: in temp for a folder, the file itself (lx_writer has its own
 *  PATH.part) for one file. */
lx_status convert_place_path(const convert_place *place, const convert_plan *plan, const char *name,
                             char out[LX_PATH_MAX], lx_err *err);
/** Everything gets its name. */
lx_status convert_place_publish(convert_place *place, const convert_plan *plan, lx_err *err);
/** Take away what was made and not published. */
void convert_place_discard(convert_place *place);

/** The index of a per-block folder. */
#define CONVERT_INDEX "diffusion_pytorch_model.safetensors.index.json"

/** All of it: values through, files written, published. bytes: of all files. */
lx_status convert_write(const convert_plan *plan, uint64_t *bytes, lx_err *err);

#endif
