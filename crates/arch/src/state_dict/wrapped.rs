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

/// Words of such names.
const AVERAGES: [&str; 5] = ["ema", "swa", "avg", "average", "averaged"];

/// Whether a name, of a tensor or of a dictionary, says that it holds averaged weights.
pub(super) fn is_average(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.split(|letter: char| !letter.is_ascii_alphanumeric()).any(|word| AVERAGES.contains(&word))
}

/// What stands before the name `wanted` in a file, such as `backbone.`: nothing, if the name itself
/// is there. Of several the one with the most tensors below it counts, plain weights before averaged
/// ones. `None` if no tensor's name ends with it.
pub(crate) fn prefix<'a>(names: impl Iterator<Item = &'a str> + Clone, wanted: &str) -> Option<&'a str> {
    let mut found: Vec<&str> = Vec::new();
    for name in names.clone() {
        match name.strip_suffix(wanted) {
            Some("") => return Some(""),
            Some(prefix) if prefix.ends_with('.') => found.push(prefix),
            _ => {}
        }
    }
    let below = |prefix: &&str| names.clone().filter(|name| name.starts_with(*prefix)).count();
    let most = found.iter().map(below).max()?;
    let large = |prefix: &&str| 2 * below(prefix) >= most;
    let plain = found.iter().copied().filter(large).find(|prefix| !is_average(prefix));
    plain.or_else(|| found.iter().copied().find(large))
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
    fn a_prefix_is_found_where_the_wanted_name_is() {
        let of = |names: &[&'static str]| prefix(names.iter().copied(), "conv1.weight");
        assert_eq!(of(&["fc.weight", "conv1.weight", "backbone.conv1.weight"]), Some(""));
        assert_eq!(of(&["backbone.conv1.weight", "backbone.fc.weight"]), Some("backbone."));
        assert_eq!(of(&["ema.conv1.weight", "ema.fc.weight", "model.conv1.weight", "model.fc.weight"]), Some("model."));
        assert_eq!(of(&["aux.conv1.weight", "net.conv1.weight", "net.a", "net.b"]), Some("net."));
        assert_eq!(of(&["myconv1.weight"]), None);
    }
}
