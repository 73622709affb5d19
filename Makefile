# make train-resnet50-aig   trains a gated ResNet-50; with DATA=DIR on your own images
# make test                 runs every test
# Both set everything up first. `make help` lists the rest.

.DEFAULT_GOAL := help
.PHONY: help setup build test check format clean train-resnet50-aig

SAMPLE_DATA := sample-data
TRAIN := target/release/train
# Settings of the environment that would lose the run path of .cargo/config.toml or point past .libtorch.
CARGO := @env -u RUSTFLAGS -u CARGO_ENCODED_RUSTFLAGS -u LIBTORCH CARGO_TARGET_DIR=target cargo

help:
	@echo "make train-resnet50-aig [DATA=DIR] [WEIGHTS=FILE] [ARGS='--set KEY=VALUE ...']"
	@echo "                   train a ResNet-50 with layer gates: on DATA, or on a sample set in a few minutes"
	@echo "make test          run every test"
	@echo "make check         formatting, lints and documentation, warnings denied"
	@echo "make build         build target/release/train"
	@echo "make setup         bring libtorch (LIBTORCH=DIR uses your own, TORCH_INDEX=URL another package index)"
	@echo "make clean         remove what was built; runs/ and data stay"

setup:
	@scripts/setup.sh

build: setup
	$(CARGO) build --release

# Without DATA the first line must say what happens, before set-up and build begin.
train-resnet50-aig:
ifdef DATA
	@$(MAKE) --no-print-directory build
	$(TRAIN) fit --config configs/resnet50-aig.toml --data "$(DATA)" $(if $(WEIGHTS),--weights "$(WEIGHTS)") $(ARGS)
else
	@echo "No DATA=DIR was given: training on the sample set in $(SAMPLE_DATA)/, with small images and few epochs."
	@$(MAKE) --no-print-directory build
	@[ -d $(SAMPLE_DATA) ] || $(TRAIN) data synth $(SAMPLE_DATA)
	$(TRAIN) fit --config configs/resnet50-aig-sample.toml --data $(SAMPLE_DATA) $(if $(WEIGHTS),--weights "$(WEIGHTS)") $(ARGS)
endif

test: setup
	$(CARGO) test --release --workspace --no-fail-fast

check: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings
	@RUSTDOCFLAGS="-D warnings" $(CARGO:@%=%) doc --release --workspace --no-deps --document-private-items

format: setup
	$(CARGO) fmt --all

clean:
	$(CARGO) clean
