//! Named parameters and buffers in a fixed order: a state dict, and how its tensors are made.

use crate::error::{Error, Result};
use crate::random::{derive_seed, normal, uniform};
use std::collections::HashMap;
use tch::{Device, Kind, Tensor};

/// How a tensor's first values are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init<'a> {
    /// Every element has this value.
    Constant(f64),
    /// These values, repeated until the tensor is full.
    Repeat(&'a [f64]),
    /// Normal with mean 0 and this standard deviation.
    Normal {
        /// Standard deviation.
        std: f64,
    },
    /// Uniform in `[-bound, bound)`.
    Uniform {
        /// Largest magnitude.
        bound: f64,
    },
}

/// Whether gradients flow to a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Learned by gradient descent.
    Parameter,
    /// State that is saved and not learned, such as batch norm statistics.
    Buffer,
}

/// One named tensor.
#[derive(Debug)]
pub struct Entry {
    /// Dotted path, as in a PyTorch state dict.
    pub name: String,
    /// The tensor itself, shared with the module that uses it.
    pub tensor: Tensor,
    /// Parameter or buffer.
    pub role: Role,
    /// The label the builder gave it (see [`Path::group`]), for optimizers that treat groups
    /// differently.
    pub group: &'static str,
}

/// Named tensors in the order they were made. Unlike `tch::nn::VarStore` it refuses a name that is
/// taken, keeps its order and never renames.
#[derive(Debug)]
pub struct Tensors {
    entries: Vec<Entry>,
    position: HashMap<String, usize>,
    device: Device,
    seed: u64,
}

impl Tensors {
    /// An empty set whose tensors will live on `device`. A tensor's random values are a function of
    /// `seed` and its name: they do not depend on the device or on what else is made.
    pub fn new(device: Device, seed: u64) -> Self {
        Self { entries: Vec::new(), position: HashMap::new(), device, seed }
    }

    /// The device all tensors live on.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The place where top-level names are made.
    pub fn root(&mut self) -> Path<'_> {
        Path { tensors: self, prefix: String::new(), group: "" }
    }

    /// All tensors, in the order they were made.
    pub fn iter(&self) -> std::slice::Iter<'_, Entry> {
        self.entries.iter()
    }

    /// The tensors gradients flow to.
    pub fn parameters(&self) -> impl Iterator<Item = &Entry> {
        self.iter().filter(|entry| entry.role == Role::Parameter)
    }

    /// The entry of that name.
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.position.get(name).map(|&i| &self.entries[i])
    }
}

impl<'a> IntoIterator for &'a Tensors {
    type Item = &'a Entry;
    type IntoIter = std::slice::Iter<'a, Entry>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// A prefix under which tensors are made: `root.sub("layer1").sub("0")` makes names `layer1.0.…`.
#[derive(Debug)]
pub struct Path<'a> {
    tensors: &'a mut Tensors,
    prefix: String,
    group: &'static str,
}

impl Path<'_> {
    /// The path one level down; `name` may itself hold dots.
    pub fn sub(&mut self, name: &str) -> Path<'_> {
        Path { prefix: self.full_name(name), tensors: self.tensors, group: self.group }
    }

    /// The same path; tensors made under it are labeled `group`.
    pub fn group(&mut self, group: &'static str) -> Path<'_> {
        Path { prefix: self.prefix.clone(), tensors: self.tensors, group }
    }

    /// Makes a float32 parameter.
    ///
    /// # Errors
    /// If the name is taken or libtorch cannot make the tensor.
    pub fn parameter(&mut self, name: &str, shape: &[i64], init: Init) -> Result<Tensor> {
        self.make(name, shape, init, Role::Parameter)
    }

    /// Makes a float32 buffer.
    ///
    /// # Errors
    /// If the name is taken or libtorch cannot make the tensor.
    pub fn buffer(&mut self, name: &str, shape: &[i64], init: Init) -> Result<Tensor> {
        self.make(name, shape, init, Role::Buffer)
    }

    fn full_name(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}.{name}", self.prefix) }
    }

    fn make(&mut self, name: &str, shape: &[i64], init: Init, role: Role) -> Result<Tensor> {
        let name = self.full_name(name);
        if self.tensors.position.contains_key(&name) {
            return Err(Error::Duplicate(name));
        }
        let seed = name.bytes().fold(self.tensors.seed, |seed, byte| derive_seed(seed, byte.into()));
        let tensor = match init {
            Init::Constant(value) => Tensor::f_full(shape, value, (Kind::Float, Device::Cpu))?,
            Init::Repeat(values) => {
                let numel = shape.iter().product::<i64>() as usize;
                let repeated: Vec<f32> = values.iter().map(|&v| v as f32).cycle().take(numel).collect();
                Tensor::f_from_slice(&repeated)?.f_view(shape)?
            }
            Init::Normal { std } => normal(shape, seed)?.f_mul_scalar(std)?,
            Init::Uniform { bound } => uniform(shape, seed)?.f_sub_scalar(0.5)?.f_mul_scalar(2.0 * bound)?,
        };
        let device = self.tensors.device;
        let tensor = tensor.f_to_device(device)?.f_set_requires_grad(role == Role::Parameter)?;
        self.tensors.position.insert(name.clone(), self.tensors.entries.len());
        let shared = tensor.shallow_clone();
        self.tensors.entries.push(Entry { name, tensor: shared, role, group: self.group });
        Ok(tensor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_paths_and_keep_their_order() {
        let mut tensors = Tensors::new(Device::Cpu, 7);
        let _ = tensors.root().sub("z").sub("0").parameter("weight", &[2], Init::Constant(1.0)).unwrap();
        let _ = tensors.root().sub("a").group("gate").buffer("mean", &[3], Init::Repeat(&[0.5, 2.0])).unwrap();
        let names: Vec<_> = tensors.iter().map(|e| (e.name.as_str(), e.group, e.role)).collect();
        assert_eq!(names, [("z.0.weight", "", Role::Parameter), ("a.mean", "gate", Role::Buffer)]);
        let mean: Vec<f32> = Vec::try_from(&tensors.get("a.mean").unwrap().tensor).unwrap();
        assert_eq!(mean, [0.5, 2.0, 0.5]);
    }

    #[test]
    fn a_name_that_is_taken_is_refused() {
        let mut tensors = Tensors::new(Device::Cpu, 7);
        let _ = tensors.root().parameter("weight", &[1], Init::Constant(0.0)).unwrap();
        let error = tensors.root().buffer("weight", &[1], Init::Constant(0.0)).unwrap_err();
        assert_eq!(error.to_string(), "tensor 'weight' is defined twice");
    }

    #[test]
    fn random_values_are_a_function_of_seed_and_name() {
        let draw = |seed, before: &[&str]| {
            let mut tensors = Tensors::new(Device::Cpu, seed);
            for name in before {
                let _ = tensors.root().parameter(name, &[3], Init::Normal { std: 1.0 }).unwrap();
            }
            tensors.root().sub("a").parameter("w", &[64], Init::Uniform { bound: 0.1 }).unwrap()
        };
        assert_eq!(draw(7, &[]), draw(7, &["x", "y"]));
        assert_ne!(draw(7, &[]), draw(8, &[]));
        assert!(draw(7, &[]).abs().max().double_value(&[]) < 0.1);
    }
}
