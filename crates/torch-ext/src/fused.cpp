// Scaling, activation and addition in one pass over memory, forward and backward. Conventions as in
// shim.cpp.
//
// Each of these operations alone takes a pass over its tensors, and the product's gradient with
// respect to its factors another with a temporary of the tensor's size. For networks on a CPU,
// where such passes are bound by memory, that is what gates would cost.
#include "guarded.h"

#include <ATen/TensorIterator.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/add.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/hardtanh.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <limits>
#include <vector>

// Loops are compiled for processors with and without AVX2, and the right ones are chosen when the
// program starts.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EVERY_PROCESSOR __attribute__((target_clones("avx2", "default")))
#else
#define FOR_EVERY_PROCESSOR
#endif

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::tensor_list;

// Where an activation lets a gradient through: between these bounds, which it clamps to.
struct Bounds {
    float low, high;
};

Bounds bounds(int64_t activation) {
    constexpr float infinity = std::numeric_limits<float>::infinity();
    return activation == 0 ? Bounds{-infinity, infinity} : Bounds{0.0f, activation == 1 ? infinity : 6.0f};
}

// A batch of features, channels last: rows of `channels` values, `rows` to an image.
struct Shape {
    int64_t images, rows, channels;
    explicit Shape(const Tensor &features)
        : images(features.size(0)), rows(features.size(2) * features.size(3)), channels(features.size(1)) {}
    int64_t image() const { return rows * channels; }
};

// One factor per channel of each image; `factors` is [N, C], or [N, 1] for the same in all
// channels.
const float *image_factors(const Tensor &factors, int64_t image, int64_t channels, std::vector<float> &filled) {
    const float *given = factors.const_data_ptr<float>();
    if (factors.size(1) == channels) return given + image * channels;
    filled.assign(channels, given[image]);
    return filled.data();
}

// Of each of these loops: rows of `channels` values, factors and sums one per channel.
using In = const float *__restrict;
using Out = float *__restrict;

FOR_EVERY_PROCESSOR void scale_rows(In features, In factors, Out result, int64_t rows, int64_t channels, Bounds bounds) {
    for (int64_t r = 0; r < rows; r++, features += channels, result += channels)
        for (int64_t c = 0; c < channels; c++)
            result[c] = factors[c] * std::min(std::max(features[c], bounds.low), bounds.high);
}

// The sums are those of gradient · activation(features), the gradient with respect to the factors.
FOR_EVERY_PROCESSOR void scale_rows_back(In gradient, In features, In factors, Out features_gradient, Out sums, int64_t rows,
                                         int64_t channels, Bounds bounds) {
    for (int64_t r = 0; r < rows; r++, gradient += channels, features += channels, features_gradient += channels)
        for (int64_t c = 0; c < channels; c++) {
            float through = features[c] > bounds.low ? gradient[c] : 0.0f;
            features_gradient[c] = features[c] < bounds.high ? factors[c] * through : 0.0f;
            sums[c] += gradient[c] * std::min(std::max(features[c], bounds.low), bounds.high);
        }
}

// The sums are those of the result.
FOR_EVERY_PROCESSOR void sum_rows(In base, In features, In factors, Out result, Out sums, int64_t rows, int64_t channels,
                                  Bounds bounds) {
    for (int64_t r = 0; r < rows; r++, base += channels, features += channels, result += channels)
        for (int64_t c = 0; c < channels; c++) {
            float value = std::min(std::max(base[c] + factors[c] * features[c], bounds.low), bounds.high);
            result[c] = value;
            sums[c] += value;
        }
}

// `of_means` is what every row's gradient has more, one value per channel; the sums are the
// gradient with respect to the factors.
FOR_EVERY_PROCESSOR void sum_rows_back(In gradient, In of_means, In result, In features, In factors, Out base_gradient,
                                       Out features_gradient, Out sums, int64_t rows, int64_t channels, Bounds bounds) {
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t c = 0; c < channels; c++) {
            float whole = gradient[c] + of_means[c];
            float through = result[c] > bounds.low ? whole : 0.0f;
            through = result[c] < bounds.high ? through : 0.0f;
            base_gradient[c] = through;
            features_gradient[c] = factors[c] * through;
            sums[c] += through * features[c];
        }
        gradient += channels, result += channels, features += channels;
        base_gradient += channels, features_gradient += channels;
    }
}

// Runs `body(image, factors of its channels)` for every image, on libtorch's own threads:
// at::parallel_for is a template that would have to be compiled with the OpenMP that libtorch was
// built with, so they are reached through an iterator over the images' numbers.
template <typename Body> void each_image(const Shape &shape, const Tensor &factors, Body body) {
    Tensor numbers = at::arange(shape.images, at::kLong);
    auto images = at::TensorIterator::nullary_op(numbers);
    images.for_each(
        [&](char **data, const int64_t *strides, int64_t count) {
            std::vector<float> filled;
            for (int64_t i = 0; i < count; i++) {
                int64_t image = *reinterpret_cast<int64_t *>(data[0] + i * strides[0]);
                body(image, image_factors(factors, image, shape.channels, filled));
            }
        },
        /*grain_size=*/1);
}

// Sums over the rows of an image: in float32 within a block of rows, in float64 over the blocks.
// `body(first row, rows, sums)` adds a block. The order does not depend on the number of threads.
template <typename Body> void sum_image(const Shape &shape, int64_t image, Tensor &result, Body body) {
    constexpr int64_t block = 64;
    std::vector<float> sums(shape.channels);
    std::vector<double> total(shape.channels);
    for (int64_t row = 0; row < shape.rows; row += block) {
        std::fill(sums.begin(), sums.end(), 0.0f);
        body(row, std::min(block, shape.rows - row), sums.data());
        for (int64_t c = 0; c < shape.channels; c++) total[c] += sums[c];
    }
    float *to = result.mutable_data_ptr<float>() + image * result.size(1);
    if (result.size(1) == shape.channels) {
        std::copy(total.begin(), total.end(), to);
    } else {
        double sum = 0;
        for (double value : total) sum += value;
        *to = static_cast<float>(sum);
    }
}

// With the strides of `features`: where two layouts are the same in memory, as for 1×1 pixels, they
// decide which kernels follow.
Tensor like(const Tensor &features) { return at::empty_like(features); }

struct Scale : Function<Scale> {
    static Tensor forward(AutogradContext *context, const Tensor &features, const Tensor &factors, int64_t activation) {
        context->save_for_backward({features, factors});
        context->saved_data["activation"] = activation;
        Shape shape(features);
        Tensor result = like(features);
        const float *from = features.const_data_ptr<float>();
        float *to = result.mutable_data_ptr<float>();
        each_image(shape, factors, [&](int64_t image, const float *own_factors) {
            int64_t at = image * shape.image();
            scale_rows(from + at, own_factors, to + at, shape.rows, shape.channels, bounds(activation));
        });
        return result;
    }

    static tensor_list backward(AutogradContext *context, tensor_list gradients) {
        auto saved = context->get_saved_variables();
        const Tensor &features = saved[0], &factors = saved[1];
        Bounds limits = bounds(context->saved_data["activation"].toInt());
        Tensor gradient = gradients[0].contiguous(at::MemoryFormat::ChannelsLast);
        Shape shape(features);
        Tensor features_gradient = like(features), factors_gradient = at::zeros(factors.sizes(), factors.options());
        const float *from_gradient = gradient.const_data_ptr<float>(), *from_features = features.const_data_ptr<float>();
        float *to = features_gradient.mutable_data_ptr<float>();
        each_image(shape, factors, [&](int64_t image, const float *own_factors) {
            sum_image(shape, image, factors_gradient, [&](int64_t row, int64_t rows, float *sums) {
                int64_t at = image * shape.image() + row * shape.channels;
                scale_rows_back(from_gradient + at, from_features + at, own_factors, to + at, sums, rows, shape.channels, limits);
            });
        });
        return {features_gradient, factors_gradient, Tensor()};
    }
};

// The sum, and the mean of each of its channels.
struct ScaledSum : Function<ScaledSum> {
    static tensor_list forward(AutogradContext *context, const Tensor &base, const Tensor &features, const Tensor &factors,
                               int64_t activation) {
        Shape shape(features);
        Tensor result = like(features), means = at::zeros({shape.images, shape.channels}, features.options());
        const float *from_base = base.const_data_ptr<float>(), *from_features = features.const_data_ptr<float>();
        float *to = result.mutable_data_ptr<float>();
        each_image(shape, factors, [&](int64_t image, const float *own_factors) {
            sum_image(shape, image, means, [&](int64_t row, int64_t rows, float *sums) {
                int64_t at = image * shape.image() + row * shape.channels;
                sum_rows(from_base + at, from_features + at, own_factors, to + at, sums, rows, shape.channels, bounds(activation));
            });
        });
        means.div_(static_cast<double>(shape.rows));
        context->save_for_backward({features, factors, result});
        context->saved_data["activation"] = activation;
        return {result, means};
    }

    static tensor_list backward(AutogradContext *context, tensor_list gradients) {
        auto saved = context->get_saved_variables();
        const Tensor &features = saved[0], &factors = saved[1], &result = saved[2];
        Bounds limits = bounds(context->saved_data["activation"].toInt());
        Shape shape(features);
        Tensor gradient = gradients[0].contiguous(at::MemoryFormat::ChannelsLast);
        Tensor of_means = gradients[1].div(static_cast<double>(shape.rows)).contiguous();
        Tensor base_gradient = like(features), features_gradient = like(features);
        Tensor factors_gradient = at::zeros(factors.sizes(), factors.options());
        const float *from_gradient = gradient.const_data_ptr<float>(), *from_means = of_means.const_data_ptr<float>();
        const float *from_result = result.const_data_ptr<float>(), *from_features = features.const_data_ptr<float>();
        float *to_base = base_gradient.mutable_data_ptr<float>(), *to_features = features_gradient.mutable_data_ptr<float>();
        each_image(shape, factors, [&](int64_t image, const float *own_factors) {
            const float *own_means = from_means + image * shape.channels;
            sum_image(shape, image, factors_gradient, [&](int64_t row, int64_t rows, float *sums) {
                int64_t at = image * shape.image() + row * shape.channels;
                sum_rows_back(from_gradient + at, own_means, from_result + at, from_features + at, own_factors, to_base + at,
                              to_features + at, sums, rows, shape.channels, limits);
            });
        });
        return {base_gradient, features_gradient, factors_gradient, Tensor()};
    }
};

// Whether the loops above can read it.
bool is_plain(const Tensor &features) {
    return features.dim() == 4 && features.device().is_cpu() && features.scalar_type() == at::kFloat &&
           features.is_contiguous(at::MemoryFormat::ChannelsLast);
}

bool are_factors(const Tensor &factors, const Tensor &features) {
    return factors.dim() == 2 && factors.size(0) == features.size(0) && (factors.size(1) == 1 || factors.size(1) == features.size(1));
}

Tensor activated(const Tensor &features, int64_t activation) {
    if (activation == 0) return features;
    return activation == 1 ? at::relu(features) : at::hardtanh(features, 0, 6);
}

Tensor broadcast(const Tensor &factors, const Tensor &features) {
    TORCH_CHECK(are_factors(factors, features), "factors of shape ", factors.sizes(), " do not scale features of shape ", features.sizes());
    return factors.to(features.scalar_type()).view({factors.size(0), factors.size(1), 1, 1});
}

} // namespace

extern "C" {

// factors · activation(features) for features [N, C, H, W] and factors [N, C] or [N, 1]. *result is
// the caller's.
char *torch_ext_scale(const Tensor *features, const Tensor *factors, int64_t activation, Tensor **result) {
    return guarded([&] {
        Tensor mask = broadcast(*factors, *features);
        if (is_plain(*features) && factors->scalar_type() == at::kFloat)
            *result = new Tensor(Scale::apply(*features, factors->contiguous(), activation));
        else
            *result = new Tensor(at::mul(activated(*features, activation), mask));
    });
}

// activation(base + factors · features) for equally shaped base and features and, where they come
// along, the means of its channels, [N, C], else null. Both results are the caller's.
char *torch_ext_scaled_sum(const Tensor *base, const Tensor *features, const Tensor *factors, int64_t activation, Tensor **result,
                           Tensor **means) {
    return guarded([&] {
        Tensor mask = broadcast(*factors, *features);
        TORCH_CHECK(base->sizes() == features->sizes(), "a sum of shapes ", base->sizes(), " and ", features->sizes());
        if (is_plain(*base) && is_plain(*features) && factors->scalar_type() == at::kFloat) {
            auto results = ScaledSum::apply(*base, *features, factors->contiguous(), activation);
            *result = new Tensor(results[0]), *means = new Tensor(results[1]);
        } else {
            *result = new Tensor(activated(at::add(*base, at::mul(*features, mask)), activation));
            *means = nullptr;
        }
    });
}
}
