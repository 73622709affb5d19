//! What wrappers and training tools do to the names of a state dict.

use tch::Tensor;

/// What torch.nn.DataParallel, DistributedDataParallel, AveragedModel and torch.compile put before
/// every name, in any order.
const WRAPPERS: [&str; 2] = ["module.", "_orig_mod."];

/// Whether a tensor is a counter that PyTorch or a profiler leaves beside the weights: how many
/// batches a batch norm has seen, how many states an average, how many operations a layer takes.
pub(crate) fn is_counter(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    ["num_batches_tracked", "n_averaged", "total_ops", "total_params"].contains(&last)
}

/// Takes off what wrappers put before every name.
pub(super) fn unwrap(tensors: &mut [(String, Tensor)]) {
    loop {
        let mut names = tensors.iter().map(|(name, _)| name).filter(|name| !is_counter(name)).peekable();
        let Some(wrapper) = names.peek().and_then(|first| WRAPPERS.iter().find(|wrapper| first.starts_with(**wrapper)))
        else {
            return;
        };
        if !names.all(|name| name.starts_with(wrapper)) {
            return;
        }
        for (name, _) in tensors.iter_mut().filter(|(name, _)| name.starts_with(wrapper)) {
            name.drain(..wrapper.len());
        }
    }
}

/// Words of names of averaged weights, and of networks that follow another one.
const FOLLOWERS: [&str; 12] =
    ["ema", "swa", "avg", "average", "averaged", "shadow", "teacher", "momentum", "polyak", "target", "slow", "k"];

/// Words of names of what is no network's weights, or not what came of its training.
const OTHERS: [&str; 7] = ["optimizer", "optim", "grad", "grads", "init", "initial", "buffer"];

/// How far a place in a file is from that of trained weights, by its name: plain ones first, then
/// averages and other networks that follow the one that is trained, then the rest.
pub(super) fn distance(place: &str) -> u8 {
    let mut words = vec![String::new()];
    let mut before = ' ';
    for letter in place.chars() {
        if !letter.is_ascii_alphanumeric() || (before.is_ascii_lowercase() && letter.is_ascii_uppercase()) {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut().filter(|_| letter.is_ascii_alphanumeric()) {
            word.push(letter.to_ascii_lowercase());
        }
        before = letter;
    }
    let any = |list: &[&str]| words.iter().any(|word| list.contains(&word.as_str()));
    if any(&OTHERS) { 2 } else { u8::from(any(&FOLLOWERS)) }
}

/// What stands before the name `wanted` wherever it is in a file, such as `backbone.`: the places of
/// networks, the most likely one first. Nothing stands before the name itself.
pub(crate) fn places<'a>(names: impl Iterator<Item = &'a str>, wanted: &str) -> Vec<&'a str> {
    let before = names.filter_map(|name| name.strip_suffix(wanted));
    let mut found: Vec<&str> = before.filter(|before| before.is_empty() || before.ends_with('.')).collect();
    found.sort_by_key(|place| (!place.is_empty(), distance(place)));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    fn unwrapped(names: &[&str]) -> Vec<String> {
        let tensor = || Tensor::zeros([1], (Kind::Float, Device::Cpu));
        let mut tensors: Vec<_> = names.iter().map(|name| ((*name).to_owned(), tensor())).collect();
        unwrap(&mut tensors);
        tensors.into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn wrappers_are_taken_off_in_any_order_and_number() {
        assert_eq!(unwrapped(&["module._orig_mod.a", "module._orig_mod.b"]), ["a", "b"]);
        assert_eq!(unwrapped(&["_orig_mod.module.module.a"]), ["a"]);
        assert_eq!(
            unwrapped(&["n_averaged", "module.a", "module.bn.num_batches_tracked"]),
            ["n_averaged", "a", "bn.num_batches_tracked"]
        );
        assert_eq!(unwrapped(&["module.a", "b"]), ["module.a", "b"]);
        assert_eq!(unwrapped(&[]), [""; 0]);
    }

    #[test]
    fn places_of_networks_are_found_and_the_trained_one_comes_first() {
        let of = |names: &[&'static str]| places(names.iter().copied(), "conv1.weight");
        assert_eq!(of(&["fc.weight", "backbone.conv1.weight", "conv1.weight"]), ["", "backbone."]);
        assert_eq!(of(&["ema.conv1.weight", "model.conv1.weight"]), ["model.", "ema."]);
        assert_eq!(of(&["modelEMA.conv1.weight", "model.conv1.weight"]), ["model.", "modelEMA."]);
        assert_eq!(of(&["encoder_k.conv1.weight", "encoder_q.conv1.weight"]), ["encoder_q.", "encoder_k."]);
        assert_eq!(of(&["teacher.conv1.weight", "student.conv1.weight"]), ["student.", "teacher."]);
        assert_eq!(of(&["optimizer.conv1.weight", "ema.conv1.weight"]), ["ema.", "optimizer."]);
        assert_eq!(of(&["a.conv1.weight", "b.conv1.weight", "schema.conv1.weight"]), ["a.", "b.", "schema."]);
        assert_eq!(of(&["myconv1.weight"]), [""; 0]);
    }
}
