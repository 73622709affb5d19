// C entry points over TorchScript's compiler. Conventions as in shim.cpp.
#include "guarded.h"

#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/serialization/export.h>
#include <torch/csrc/jit/serialization/import.h>

#include <sstream>

namespace {

using torch::jit::Module;

// Classes of one program share a compilation unit, where each needs a name of its own.
Module make_module(const std::string &name, const std::shared_ptr<torch::jit::CompilationUnit> &unit) {
    Module module(c10::QualifiedName("__torch__." + name), unit, /*shouldMangle=*/true);
    // torch.jit.freeze asks for it.
    module.register_attribute("training", c10::BoolType::get(), false);
    return module;
}

// The submodule at a dotted path, made where it is missing, and what follows the last dot.
std::pair<Module, std::string> place(Module module, const std::string &path) {
    size_t start = 0;
    for (size_t dot; (dot = path.find('.', start)) != std::string::npos; start = dot + 1) {
        std::string name = path.substr(start, dot - start);
        if (!module.hasattr(name)) module.register_module(name, make_module("Part", module._ivalue()->compilation_unit()));
        module = module.attr(name).toModule();
    }
    return {module, path.substr(start)};
}

std::vector<std::string> texts(const char *const *values, size_t count) { return {values, values + count}; }

} // namespace

extern "C" {

char *torch_ext_script_new(const char *name, Module **result) {
    return guarded([&] { *result = new Module(make_module(name, std::make_shared<torch::jit::CompilationUnit>())); });
}

void torch_ext_script_free(Module *module) { delete module; }

char *torch_ext_script_tensor(Module *module, const char *path, const at::Tensor *tensor, bool is_buffer) {
    return guarded([&] {
        auto [owner, name] = place(*module, path);
        owner.register_parameter(name, tensor->detach(), is_buffer);
    });
}

char *torch_ext_script_int(Module *module, const char *name, int64_t value) {
    return guarded([&] { module->register_attribute(name, c10::IntType::get(), value); });
}

char *torch_ext_script_text(Module *module, const char *name, const char *value) {
    return guarded([&] { module->register_attribute(name, c10::StringType::get(), std::string(value)); });
}

char *torch_ext_script_numbers(Module *module, const char *name, const double *values, size_t count) {
    return guarded([&] {
        module->register_attribute(name, c10::ListType::ofFloats(), c10::List<double>(c10::ArrayRef<double>(values, count)));
    });
}

char *torch_ext_script_texts(Module *module, const char *name, const char *const *values, size_t count) {
    return guarded([&] {
        module->register_attribute(name, c10::ListType::ofStrings(), c10::List<std::string>(texts(values, count)));
    });
}

char *torch_ext_script_define(Module *module, const char *source) {
    return guarded([&] { module->define(source); });
}

// Calls a method of one tensor that returns a tensor, or a tensor and a list of tensors: `store` is
// called with each in turn.
char *torch_ext_script_call(const Module *module, const char *method, const at::Tensor *input, void *context,
                            void (*store)(void *, at::Tensor *)) {
    return guarded([&] {
        c10::InferenceMode no_gradients;
        // The executor would spend its first calls on profiling and rewriting the graph, which
        // gains a network nothing.
        torch::jit::GraphOptimizerEnabledGuard as_it_is(false);
        auto result = module->get_method(method)({*input});
        if (result.isTensor()) return store(context, new at::Tensor(result.toTensor()));
        auto parts = result.toTupleRef().elements();
        store(context, new at::Tensor(parts[0].toTensor()));
        for (const at::Tensor &tensor : parts[1].toTensorVector()) store(context, new at::Tensor(tensor));
    });
}

// Frozen and optimized, as torch.jit.optimize_for_inference does it.
char *torch_ext_script_optimize(const Module *module, Module **result) {
    return guarded([&] { *result = new Module(torch::jit::optimize_for_inference(*const_cast<Module *>(module))); });
}

// The file torch.jit.save writes, as bytes: `store` is called once.
char *torch_ext_script_save(const Module *module, void *context, void (*store)(void *, const char *, size_t)) {
    return guarded([&] {
        std::ostringstream stream;
        module->save(stream);
        std::string bytes = stream.str();
        store(context, bytes.data(), bytes.size());
    });
}

char *torch_ext_script_load(const char *path, Module **result) {
    return guarded([&] { *result = new Module(torch::jit::load(path)); });
}
}
