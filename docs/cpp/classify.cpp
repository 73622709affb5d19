// Runs an exported network in C++, without Rust and without Python.
//
//   classify NETWORK.pt [CHECK.pt]
//
// Prints what the network is. With a file of images and logits (train export writes NETWORK.check.pt) it also classifies them and
// exits with 1 if the logits differ. Build it against libtorch; in a checkout after `make setup`:
//
//   c++ -std=c++17 docs/cpp/classify.cpp -I.libtorch/include -I.libtorch/include/torch/csrc/api/include \
//       -L.libtorch/lib -Wl,--no-as-needed -ltorch -ltorch_cpu -lc10 -Wl,-rpath,$PWD/.libtorch/lib -o classify
#include <torch/script.h>

#include <iostream>

int main(int argc, char **argv) {
    if (argc < 2 || argc > 3) {
        std::cerr << "usage: classify NETWORK.pt [CHECK.pt]\n";
        return 2;
    }
    try {
        c10::InferenceMode inference;
        torch::jit::Module network = torch::jit::load(argv[1]);
        auto classes = network.attr("classes").toListRef();
        std::cout << network.attr("provenance").toStringRef() << "\n"
                  << classes.size() << " classes, images of " << network.attr("image_size").toInt() << " pixels, "
                  << network.attr("macs").toInt() << " MACs\n";
        if (argc == 2) return 0;

        torch::jit::Module check = torch::jit::load(argv[2]);
        at::Tensor expected = check.attr("logits").toTensor();
        at::Tensor logits = network.forward({check.attr("images").toTensor()}).toTensor();
        at::Tensor best = logits.argmax(1);
        for (int64_t i = 0; i < best.size(0); i++) {
            std::cout << "image " << i << ": " << classes[best[i].item<int64_t>()].toStringRef() << "\n";
        }
        double difference = ((logits - expected).abs().max() / expected.abs().max()).item<double>();
        std::cout << "logits differ by " << difference << " of the largest\n";
        return difference <= 1e-4 ? 0 : 1;
    } catch (const std::exception &error) {
        std::cerr << "classify: " << error.what() << "\n";
        return 1;
    }
}
