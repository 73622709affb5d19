#!/usr/bin/env bash
# Downloads published weights into weights/ and checks their SHA-256, whose first eight digits are
# part of the published name.
#
#   scripts/fetch_weights.sh NAME [DIR]   NAME is an architecture (without NAME: the list), DIR another folder than weights/
#
#   WEIGHTS_URL=URL   take the file from URL/FILE instead, for a mirror; file:///DIR works too
set -euo pipefail

imagenet=https://download.pytorch.org/models
cifar=https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models

# name, published file, where; torchvision's IMAGENET1K_V1 weights, and CIFAR-10 weights of the
# layout of He et al. 2015
weights="
resnet18         resnet18-f37072fd.pth      $imagenet
resnet34         resnet34-b627a593.pth      $imagenet
resnet50         resnet50-0676ba61.pth      $imagenet
resnet101        resnet101-63fe2227.pth     $imagenet
resnet152        resnet152-394f9c45.pth     $imagenet
mobilenet_v2     mobilenet_v2-b0353104.pth  $imagenet
cifar-resnet20   resnet20-12fca82f.th       $cifar
cifar-resnet32   resnet32-d509ac18.th       $cifar
cifar-resnet44   resnet44-014dd654.th       $cifar
cifar-resnet56   resnet56-4bfd9763.th       $cifar
cifar-resnet110  resnet110-1d1ed7c2.th      $cifar
"

fail() {
    echo "fetch_weights: $1" >&2
    exit "${2:-1}"
}

known() { awk 'NF { printf "%s%s", separator, $1; separator = ", " }' <<< "$weights"; }

[ $# -ge 1 ] && [ $# -le 2 ] || fail "which weights? scripts/fetch_weights.sh NAME [DIR]; known are $(known)" 2
name=$1
read -r file url <<< "$(awk -v name="$name" '$1 == name { print $2, $3 }' <<< "$weights")"
[ -n "$file" ] || fail "no weights are known for '$name'; known are $(known)" 2
folder=${2:-$(dirname "$0")/../weights}
[ -d "$folder" ] || fail "$folder is not a folder"
target=$folder/$name.pth
digits=${file##*-}
digits=${digits%%.*}

if command -v sha256sum > /dev/null; then sum=(sha256sum); else sum=(shasum -a 256); fi
is_published() { # is_published FILE: whether its checksum is the one in the published name
    [ "$("${sum[@]}" < "$1" | cut -c 1-8)" = "$digits" ]
}

if [ -e "$target" ]; then
    is_published "$target" || fail "$target exists and is another file (its SHA-256 does not begin with $digits); move it away"
    echo "fetch_weights: $target is there already" >&2
    exit 0
fi
source=${WEIGHTS_URL:-$url}/$file
scratch=$(mktemp "$folder/.fetching-XXXXXX")
trap 'rm -f "$scratch"' EXIT
trap 'exit 130' INT TERM
if command -v curl > /dev/null; then
    curl --fail --location --silent --show-error --output "$scratch" "$source" || fail "cannot download $source"
elif command -v wget > /dev/null && [ "${source#file://}" = "$source" ]; then
    wget --quiet --output-document "$scratch" "$source" || fail "cannot download $source"
else
    fail "curl was not found (nor wget, which reads no file://); install it, or save $source as $target"
fi
is_published "$scratch" || fail "$source is damaged: its SHA-256 does not begin with $digits; nothing was written"
chmod 644 "$scratch"
mv "$scratch" "$target"
echo "fetch_weights: wrote $target" >&2
