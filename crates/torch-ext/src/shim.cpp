// C entry points over libtorch for what tch does not wrap. Every function returns null, or an error text the caller frees
// with torch_ext_free_error. Tensors are passed as tch passes them: pointers to at::Tensor that stay the caller's.
#include "guarded.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/_fused_sgd.h>
#include <ATen/ops/full.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>

#include <dlfcn.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <vector>

namespace {

std::vector<at::Tensor> list(at::Tensor *const *tensors, size_t count) {
    std::vector<at::Tensor> result;
    result.reserve(count);
    for (size_t i = 0; i < count; i++) result.push_back(*tensors[i]);
    return result;
}

} // namespace

extern "C" {

void torch_ext_free_error(char *error) {
    if (error != out_of_memory) free(error);
}

// glibc gives large blocks back to the system when they are freed and gets them anew, page by page, for the next tensor. Networks
// ask for the same sizes again and again.
void torch_ext_keep_memory() {
#ifdef __GLIBC__
    mallopt(M_MMAP_MAX, 0);
    mallopt(M_TRIM_THRESHOLD, -1);
    mallopt(M_TOP_PAD, 64 << 20);
#endif
}

// Loads libtorch's CUDA half into the process; libtorch registers its CUDA back end while loading.
bool torch_ext_load_cuda() { return dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) != nullptr; }

// A float32 CPU tensor of uniform [0, 1) or standard normal values from a generator of its own. *result is the caller's.
char *torch_ext_random(const int64_t *size, size_t dimensions, uint64_t seed, bool normal, at::Tensor **result) {
    return guarded([&] {
        at::Generator generator = at::detail::createCPUGenerator(seed);
        at::IntArrayRef shape(size, dimensions);
        *result = new at::Tensor(normal ? at::randn(shape, generator, at::kFloat) : at::rand(shape, generator, at::kFloat));
    });
}

// torch._fused_sgd_ with dampening 0, where momentum buffers of zero already make the first step right. Without momentum
// libtorch wants no buffers.
char *torch_ext_fused_sgd(at::Tensor *const *parameters, at::Tensor *const *gradients, at::Tensor *const *momenta,
                          size_t count, double learning_rate, double momentum, double weight_decay, bool nesterov) {
    return guarded([&] {
        at::_fused_sgd_(list(parameters, count), list(gradients, count), list(momenta, momentum == 0 ? 0 : count), weight_decay, momentum,
                        learning_rate, /*dampening=*/0.0, nesterov, /*maximize=*/false, /*is_first_step=*/false);
    });
}

// torch._fused_adamw_. All parameters are at the same step, counted from 1.
char *torch_ext_fused_adamw(at::Tensor *const *parameters, at::Tensor *const *gradients, at::Tensor *const *means,
                            at::Tensor *const *squares, size_t count, double step, double learning_rate, double beta1, double beta2,
                            double weight_decay, double epsilon) {
    return guarded([&] {
        at::Tensor number = at::full({}, step, parameters[0]->options().dtype(at::kFloat));
        at::_fused_adamw_(list(parameters, count), list(gradients, count), list(means, count), list(squares, count),
                          /*max_exp_avg_sqs=*/{}, std::vector<at::Tensor>(count, number), learning_rate, beta1, beta2, weight_decay,
                          epsilon, /*amsgrad=*/false, /*maximize=*/false);
    });
}
}
