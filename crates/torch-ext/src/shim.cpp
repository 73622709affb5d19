// C entry points over libtorch for what tch does not wrap. Every function returns null, or an error
// text the caller frees with torch_ext_free_error. Tensors are passed as tch passes them: pointers
// to at::Tensor that stay the caller's.
#include "guarded.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/_foreach_lerp.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/_fused_sgd.h>
#include <ATen/ops/full.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/stack.h>

#include <c10/core/CachingDeviceAllocator.h>

#include <dlfcn.h>
#include <vector>

namespace {

std::vector<at::Tensor> list(at::Tensor *const *tensors, size_t count) {
    std::vector<at::Tensor> result;
    result.reserve(count);
    for (size_t i = 0; i < count; i++) result.push_back(*tensors[i]);
    return result;
}

std::optional<at::Tensor> optional(const at::Tensor *tensor) { return tensor ? std::optional(*tensor) : std::nullopt; }

at::DeviceType device_type(bool cuda) { return cuda ? at::kCUDA : at::kCPU; }

} // namespace

extern "C" {

void torch_ext_free_error(char *error) {
    if (error != out_of_memory) free(error);
}

// The caching allocator keeps pinned memory until copies from it are done. *result is the caller's.
char *torch_ext_to_cuda(const at::Tensor *tensor, int64_t device, at::Tensor **result) {
    return guarded([&] {
        at::Device target(at::kCUDA, static_cast<c10::DeviceIndex>(device));
        *result = new at::Tensor(tensor->pin_memory().to(target, tensor->scalar_type(), /*non_blocking=*/true));
    });
}

// Of the tensors alone, or of what is kept for them too.
char *torch_ext_peak_cuda_memory(int64_t device, bool kept, uint64_t *bytes) {
    return guarded([&] {
        auto stats = c10::getDeviceAllocator(at::kCUDA)->getDeviceStats(static_cast<c10::DeviceIndex>(device));
        *bytes = static_cast<uint64_t>((kept ? stats.reserved_bytes : stats.allocated_bytes)[0].peak);
    });
}

char *torch_ext_restart_peak_cuda_memory(int64_t device) {
    return guarded([&] {
        c10::getDeviceAllocator(at::kCUDA)->resetPeakStats(static_cast<c10::DeviceIndex>(device));
    });
}

// Loads libtorch's CUDA half into the process; libtorch registers its CUDA back end while loading.
char *torch_ext_load_cuda() {
    if (dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL)) return nullptr;
    const char *reason = dlerror();
    return error_text(reason ? reason : "libtorch_cuda.so cannot be loaded");
}

// A float32 CPU tensor of uniform [0, 1) or standard normal values from a generator of its own.
// *result is the caller's.
char *torch_ext_random(const int64_t *size, size_t dimensions, uint64_t seed, bool normal, at::Tensor **result) {
    return guarded([&] {
        at::Generator generator = at::detail::createCPUGenerator(seed);
        at::IntArrayRef shape(size, dimensions);
        *result = new at::Tensor(normal ? at::randn(shape, generator, at::kFloat) : at::rand(shape, generator, at::kFloat));
    });
}

// Begins what torch.autocast begins, and tells what held before. `kind` numbers are
// at::ScalarType's.
char *torch_ext_autocast(bool cuda, bool enabled, int kind, bool *was_enabled, int *former_kind) {
    return guarded([&] {
        auto device = device_type(cuda);
        *was_enabled = at::autocast::is_autocast_enabled(device);
        *former_kind = static_cast<int>(at::autocast::get_autocast_dtype(device));
        at::autocast::set_autocast_dtype(device, static_cast<at::ScalarType>(kind));
        at::autocast::set_autocast_enabled(device, enabled);
        at::autocast::increment_nesting();
    });
}

void torch_ext_autocast_end(bool cuda, bool was_enabled, int former_kind) {
    auto device = device_type(cuda);
    // Weights are converted once and kept; they may move before the next time.
    if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
    at::autocast::set_autocast_enabled(device, was_enabled);
    at::autocast::set_autocast_dtype(device, static_cast<at::ScalarType>(former_kind));
}

void torch_ext_allow_tf32(bool allowed) {
    at::globalContext().setAllowTF32CuBLAS(allowed);
    at::globalContext().setAllowTF32CuDNN(allowed);
}

// The Euclidean norm of all tensors together, as a scalar tensor. *result is the caller's.
char *torch_ext_norm(at::Tensor *const *tensors, size_t count, at::Tensor **result) {
    return guarded([&] {
        auto norms = at::_foreach_norm(list(tensors, count), 2);
        *result = new at::Tensor(at::linalg_vector_norm(at::stack(norms), 2));
    });
}

// Moves each of `tensors` the share `weight` of its way to that of `ends`.
char *torch_ext_lerp(at::Tensor *const *tensors, at::Tensor *const *ends, size_t count, double weight) {
    return guarded([&] { at::_foreach_lerp_(list(tensors, count), list(ends, count), weight); });
}

// torch._fused_sgd_ with dampening 0, where momentum buffers of zero already make the first step
// right. Without momentum libtorch wants no buffers. Gradients are divided by `scale`, and nothing
// changes if `skip` is 1; both may be null.
char *torch_ext_fused_sgd(at::Tensor *const *parameters, at::Tensor *const *gradients, at::Tensor *const *momenta,
                          size_t count, const at::Tensor *scale, const at::Tensor *skip, double learning_rate, double momentum,
                          double weight_decay, bool nesterov) {
    return guarded([&] {
        at::_fused_sgd_(list(parameters, count), list(gradients, count), list(momenta, momentum == 0 ? 0 : count), weight_decay, momentum,
                        learning_rate, /*dampening=*/0.0, nesterov, /*maximize=*/false, /*is_first_step=*/false, optional(scale),
                        optional(skip));
    });
}

// torch._fused_adamw_. `number` is that of the step, the same for all parameters, from 1. `scale`
// and `skip` as above.
char *torch_ext_fused_adamw(at::Tensor *const *parameters, at::Tensor *const *gradients, at::Tensor *const *means,
                            at::Tensor *const *squares, size_t count, const at::Tensor *number, const at::Tensor *scale,
                            const at::Tensor *skip, double learning_rate, double beta1, double beta2, double weight_decay,
                            double epsilon) {
    return guarded([&] {
        at::_fused_adamw_(list(parameters, count), list(gradients, count), list(means, count), list(squares, count),
                          /*max_exp_avg_sqs=*/{}, std::vector<at::Tensor>(count, *number), learning_rate, beta1, beta2, weight_decay,
                          epsilon, /*amsgrad=*/false, /*maximize=*/false, optional(scale), optional(skip));
    });
}
}
