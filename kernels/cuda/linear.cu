/*
 * linear.cu - products by cuBLASLt
 * SPDX-License-Identifier: Apache-2.0
 *
 * Formula   acc[m][n] = sum_k x[m][k] w[n][k], all row-major. In cuBLAS's column-major words:
 *           acc^T [n, m] = w^T-transposed [n, k] times x^T [k, m], the "TN" form, which is the one
 *           that INT8 and FP8 have.
 * Serves    n and k multiples of 16, 16-byte aligned operands: every linear of Wan2.1. What does
 *           not fit, or what this card's cuBLASLt has no kernel for, goes to product.cu.
 * Finished  BF16 results of BF16 operands leave cuBLASLt with bias and tanh-GELU done, where it has
 *           a kernel for that: sums of 4 bytes a number are neither written nor read.
 * Order     No reduction by atomics is allowed; the kernel for a shape is chosen once. INT8 sums
 *           are exact. FP8 without fast accumulation: partial sums are promoted to f32.
 */
#include "cu_linear.cuh"

#define CANDIDATES 8

#define CU_BLAS(call)                                                                              \
    do {                                                                                           \
        int status_ = (int)(call);                                                                 \
        if (status_ != (int)CUBLAS_STATUS_SUCCESS)                                                 \
            return LX_CUDA_BLAS + status_;                                                         \
    } while (0)

/* The descriptors of one product; they live on the stack, cuBLASLt only reads them. */
struct blas_call {
    cublasLtMatmulDescOpaque_t op;
    cublasLtMatrixLayoutOpaque_t w, x, acc;
};

/* 0 where there is none. */
static int finish_of(const lx_cu_product *p)
{
    return p->is_finished ? 1 + (p->bias.data ? 2 : 0) + (p->activation == LX_CU_GELU ? 4 : 0) : 0;
}

/* Rows here are columns there: its bias, one number for each of its rows, is ours. */
static int describe_finish(const lx_cu_product *p, blas_call *c)
{
    const bool is_gelu = p->activation == LX_CU_GELU;
    const cublasLtEpilogue_t epilogue = is_gelu && p->bias.data ? CUBLASLT_EPILOGUE_GELU_BIAS
                                        : is_gelu               ? CUBLASLT_EPILOGUE_GELU
                                        : p->bias.data          ? CUBLASLT_EPILOGUE_BIAS
                                                                : CUBLASLT_EPILOGUE_DEFAULT;
    CU_BLAS(cublasLtMatmulDescSetAttribute(&c->op, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
                                           sizeof epilogue));
    if (p->bias.data)
        CU_BLAS(cublasLtMatmulDescSetAttribute(&c->op, CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                                               &p->bias.data, sizeof p->bias.data));
    return 0;
}

static int describe(const lx_cu_product *p, blas_call *c)
{
    const bool is_i8 = p->dtype == LX_CU_I8;
    const cudaDataType_t in = is_i8                    ? CUDA_R_8I
                              : p->dtype == LX_CU_BF16 ? CUDA_R_16BF
                                                       : CUDA_R_8F_E4M3;
    const cudaDataType_t sum = is_i8 ? CUDA_R_32I : CUDA_R_32F;
    const cudaDataType_t out = p->is_finished ? CUDA_R_16BF : sum;
    const cublasOperation_t transposed = CUBLAS_OP_T;
    const uint64_t m = (uint64_t)p->m, n = (uint64_t)p->n, k = (uint64_t)p->k;
    CU_BLAS(cublasLtMatmulDescInit(&c->op, is_i8 ? CUBLAS_COMPUTE_32I : CUBLAS_COMPUTE_32F, sum));
    CU_BLAS(cublasLtMatmulDescSetAttribute(&c->op, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                           sizeof transposed));
    CU_BLAS(cublasLtMatrixLayoutInit(&c->w, in, k, n, p->k));
    CU_BLAS(cublasLtMatrixLayoutInit(&c->x, in, k, m, p->k));
    CU_BLAS(cublasLtMatrixLayoutInit(&c->acc, out, n, m, p->ld));
    return p->is_finished ? describe_finish(p, c) : 0;
}

static int prefer(const lx_cu_product *p, cublasLtMatmulPreferenceOpaque_t *pref)
{
    /* NONE is always allowed; COMPUTE_TYPE sums partial products from the workspace, in order. */
    const uint32_t reduction = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, aligned = 16;
    const uint64_t scratch = p->scratch_bytes;
    static const cublasLtMatmulPreferenceAttributes_t sides[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    CU_BLAS(cublasLtMatmulPreferenceInit(pref));
    CU_BLAS(cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                 &scratch, sizeof scratch));
    CU_BLAS(cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                                 &reduction, sizeof reduction));
    for (cublasLtMatmulPreferenceAttributes_t side : sides)
        CU_BLAS(cublasLtMatmulPreferenceSetAttribute(pref, side, &aligned, sizeof aligned));
    return 0;
}

/* Ask cuBLASLt for a kernel; none is no error. */
static int choose(lx_cuda_dev *dev, const lx_cu_product *p, blas_call *c, cu_gemm *out)
{
    cublasLtMatmulPreferenceOpaque_t pref;
    cublasLtMatmulHeuristicResult_t found[CANDIDATES];
    int n = 0;
    CU_TRY(prefer(p, &pref));
    cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(dev->blas, &c->op, &c->w, &c->x, &c->acc,
                                                           &c->acc, &pref, CANDIDATES, found, &n);
    if (status != CUBLAS_STATUS_SUCCESS && status != CUBLAS_STATUS_NOT_SUPPORTED &&
        status != CUBLAS_STATUS_INVALID_VALUE)
        return LX_CUDA_BLAS + (int)status;
    *out = cu_gemm{p->dtype, p->m, p->n, p->k, p->ld, p->scratch_bytes, finish_of(p), true, {}};
    for (int i = 0; i < n && out->is_own && status == CUBLAS_STATUS_SUCCESS; i++)
        if (found[i].state == CUBLAS_STATUS_SUCCESS && found[i].workspaceSize <= p->scratch_bytes) {
            out->algo = found[i].algo;
            out->is_own = false;
        }
    return 0;
}

static const cu_gemm *remembered(const lx_cuda_dev *dev, const lx_cu_product *p)
{
    int64_t n = dev->n_gemms < CU_GEMMS ? dev->n_gemms : CU_GEMMS;
    for (int64_t i = 0; i < n; i++) {
        const cu_gemm *g = &dev->gemm[i];
        if (g->m == p->m && g->n == p->n && g->k == p->k && g->ld == p->ld &&
            g->dtype == p->dtype && g->scratch_bytes == p->scratch_bytes &&
            g->finish == finish_of(p))
            return g;
    }
    return nullptr;
}

static bool is_served(const lx_cu_product *p)
{
    uintptr_t all = (uintptr_t)p->x | (uintptr_t)p->w | (uintptr_t)p->acc | (uintptr_t)p->scratch |
                    (uintptr_t)p->bias.data;
    bool is_plain = !p->is_finished ||
                    (p->dtype == LX_CU_BF16 && p->ld % 8 == 0 &&
                     (!p->bias.data || p->bias.dtype == LX_CU_BF16) && p->activation != LX_CU_SILU);
    return is_plain && p->dtype != LX_CU_F32 && p->n % 16 == 0 && p->k % 16 == 0 &&
           p->ld % 4 == 0 && all % 16 == 0;
}

static int product(lx_cuda_dev *dev, const lx_cu_product *p)
{
    blas_call c;
    if (!is_served(p))
        return p->is_finished ? LX_CU_NOT_SERVED : cu_product_any(dev, p);
    CU_TRY(describe(p, &c));
    const cu_gemm *g = remembered(dev, p);
    if (!g) {
        cu_gemm *slot = &dev->gemm[dev->n_gemms % CU_GEMMS];
        CU_TRY(choose(dev, p, &c, slot));
        dev->n_gemms++;
        g = slot;
    }
    if (g->is_own)
        return p->is_finished ? LX_CU_NOT_SERVED : cu_product_any(dev, p);
    const int32_t one_s32 = 1, zero_s32 = 0;
    const float one = 1, zero = 0;
    const bool is_i8 = p->dtype == LX_CU_I8;
    CU_BLAS(cublasLtMatmul(dev->blas, &c.op, is_i8 ? (const void *)&one_s32 : &one, p->w, &c.w,
                           p->x, &c.x, is_i8 ? (const void *)&zero_s32 : &zero, p->acc, &c.acc,
                           p->acc, &c.acc, &g->algo, p->scratch, p->scratch_bytes, dev->compute));
    return cu_launched();
}

extern "C" {
extern const struct lx_cuda_linear_ops lx_cuda_linear_table;
const struct lx_cuda_linear_ops lx_cuda_linear_table = {product,     cu_few,       cu_epilogue,
                                                        cu_quantize, cu_to_bf16,   cu_int8,
                                                        cu_codes,    cu_int8_rate, cu_clocks};
}
