# make train-resnet50-aig   trains a gated ResNet-50; with DATA=DIR on your own images
# make shrink-demo          makes a network faster from its weights, and a page about it
# make test                 runs every test
# Both set everything up first. `make help` lists the rest.

.DEFAULT_GOAL := help

SAMPLE_DATA := sample-data
# What the demonstration of a shrink draws and makes.
DEMO_DATA := sample-data-demo
DEMO := runs/shrink-demo
TRAIN := target/release/train
ifneq ($(filter command,$(foreach name,data weights args,$(firstword $(origin $(name))))),)
$(error the variables are DATA=DIR, WEIGHTS=FILE and ARGS='...', in capitals)
endif
# What makes any configuration small enough to try.
TRY := --set train.epochs=1 --set train.batch_size=32 --set data.image_size=32 --set data.resize=32
CONFIGS := $(filter-out %-sample,$(patsubst configs/%.toml,%,$(sort $(wildcard configs/*.toml))))
# Statistics are re-estimated over few batches, or gates frozen in that one epoch.
TRY_PAPER := --set train.calibrate_batches=2
TRY_BUDGET := --set gates.freeze_after=0.5
# Settings of the environment that would lose the run path of .cargo/config.toml or point past
# .libtorch.
CARGO := @env -u RUSTFLAGS -u CARGO_ENCODED_RUSTFLAGS -u LIBTORCH CARGO_TARGET_DIR=target cargo

.PHONY: help setup build shrink-demo test check format fuzz clean $(CONFIGS:%=train-%)

help:
	@echo "make train-resnet50-aig [DATA=DIR] [WEIGHTS=FILE] [ARGS='--set KEY=VALUE ...']"
	@echo "                   train a ResNet-50 with layer gates: on DATA, or on a sample set in a few minutes"
	@echo "make shrink-demo   make a small network faster, from weights to verified files, in a few minutes"
	@echo "make train-NAME DATA=DIR [WEIGHTS=FILE] [ARGS='--set KEY=VALUE ...']"
	@echo "                   train configs/NAME.toml; NAME is one of"
	@printf '                   %s\n' $(CONFIGS)
	@echo "make sample-data   draw a small set of images to try things on"
	@echo "make test          run every test"
	@echo "make check         formatting, lints and documentation, warnings denied"
	@echo "make build         build target/release/train"
	@echo "make setup         bring libtorch (LIBTORCH=DIR uses your own, TORCH_INDEX=URL another package index)"
	@echo "make fuzz          fuzz the readers of weights files for SECONDS (600)"
	@echo "make clean         remove what was built; runs/ and data stay"

setup:
	@scripts/setup.sh

build: setup
	$(CARGO) build --release

$(SAMPLE_DATA):
	@$(MAKE) --no-print-directory build
	$(TRAIN) data synth $(SAMPLE_DATA)

$(DEMO_DATA):
	@$(MAKE) --no-print-directory build
	$(TRAIN) data synth $(DEMO_DATA) --train 400 --val 200

# Where it was stopped, both go on.
shrink-demo:
	@echo "A small network learns to tell drawn shapes apart, then to take 60% of its time: about five minutes."
	@$(MAKE) --no-print-directory build
	@[ -d $(DEMO_DATA) ] || $(MAKE) --no-print-directory $(DEMO_DATA)
	$(TRAIN) fit $(if $(wildcard $(DEMO)-dense/config.toml),--resume,--config configs/cifar-resnet20-sample.toml --data $(DEMO_DATA) \
	    --set gates.granularity=none --set gates.start= --set gates.freeze_after= --set optimizer.learning_rate=0.1 \
	    --set train.epochs=8) --out $(DEMO)-dense
	$(TRAIN) shrink --config configs/cifar-resnet20-sample.toml --checkpoint $(DEMO)-dense/checkpoints/best.safetensors \
	    --data $(DEMO_DATA) --time 0.6 --batch 16 --out $(DEMO)

# The first line says what happens, before set-up and build begin.
ifdef DATA
$(CONFIGS:%=train-%): train-%:
	@$(MAKE) --no-print-directory build
	$(TRAIN) fit --config configs/$*.toml --data "$(DATA)" $(if $(WEIGHTS),--weights "$(WEIGHTS)") $(ARGS)
else
train-resnet50-aig:
	@echo "No DATA=DIR was given: training on the sample set in $(SAMPLE_DATA)/, with small images and few epochs."
	@$(MAKE) --no-print-directory build
	@[ -d $(SAMPLE_DATA) ] || $(TRAIN) data synth $(SAMPLE_DATA)
	$(TRAIN) fit --config configs/resnet50-aig-sample.toml --data $(SAMPLE_DATA) $(if $(WEIGHTS),--weights "$(WEIGHTS)") $(ARGS)

$(filter-out train-resnet50-aig,$(CONFIGS:%=train-%)): train-%:
	@echo "make $@ needs images: DATA=DIR in ImageNet layout, DIR/train/CLASS/IMAGE.jpg and DIR/val/CLASS/IMAGE.jpg." >&2
	@echo "To try it: make sample-data && make $@ DATA=$(SAMPLE_DATA) ARGS='$(TRY) $(if $(filter %-paper,$*),$(TRY_PAPER),$(TRY_BUDGET))'" >&2
	@exit 2
endif

train-%:
	@echo "There is no configs/$*.toml; NAME in make train-NAME is one of: $(CONFIGS)" >&2
	@exit 2

# A make that knows no target stops with a riddle.
.DEFAULT:
	@echo "make $@: there is no such target; make help lists them" >&2
	@exit 2

test: setup
	$(CARGO) test --release --workspace --no-fail-fast

check: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings
	@RUSTDOCFLAGS="-D warnings" $(CARGO:@%=%) doc --release --workspace --no-deps --document-private-items

format: setup
	$(CARGO) fmt --all

fuzz:
	@scripts/fuzz.sh $(SECONDS)

clean:
	$(CARGO) clean
