//! The part of Python's pickle format that `torch.save` writes for a state dict, read as data.
//!
//! The opcodes are those of Lib/pickletools.py (protocol 0 to 5). Calls are never made: the few
//! callables that rebuild tensors and ordered dictionaries become [`Value`]s, a few that training
//! scripts leave beside the weights become [`Value::Opaque`], and a pickle that so much as imports
//! anything else is refused by that name.

use super::foreign::pickled_module;
use std::collections::HashMap;
use std::rc::Rc;

/// An object of the pickle. Containers are positions in arenas and the rest is shared, so copies
/// cost nothing: memory stays in proportion to the file however often a pickle repeats, nests or
/// cycles.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(Rc<str>),
    Tuple(usize),
    List(usize),
    Dict(usize),
    /// A name that was imported, such as `torch FloatStorage`.
    Global(Rc<[String; 2]>),
    Storage(Rc<StorageRef>),
    Tensor(Rc<TensorRef>),
    /// Something that carries no tensor, such as a byte string.
    Opaque,
}

/// A storage of the file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StorageRef {
    /// PyTorch's class, such as `FloatStorage`.
    pub class: String,
    /// Name of its record in the archive.
    pub key: String,
    /// Number of elements.
    pub elements: i64,
}

/// A strided view into a storage.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TensorRef {
    pub storage: Rc<StorageRef>,
    pub offset: i64,
    pub size: Vec<i64>,
    pub stride: Vec<i64>,
}

/// A pickle that was read to its end.
#[derive(Debug)]
pub(crate) struct Pickle {
    pub root: Value,
    /// The items of each dictionary, keys repeated where the pickle repeats them.
    pub dicts: Vec<Vec<(Value, Value)>>,
    /// The items of each list.
    pub lists: Vec<Vec<Value>>,
    /// Class of every storage it mentions, by key.
    pub storages: HashMap<String, String>,
}

type Outcome<T> = Result<T, String>;

/// Reads a pickle at the start of `bytes`; gives back what follows it too.
pub(crate) fn parse(bytes: &[u8]) -> Outcome<(Pickle, &[u8])> {
    Machine { input: bytes, ..Machine::default() }.run()
}

/// No state dict comes near so many steps; each may take some 100 bytes.
const MOST_OPCODES: usize = 1 << 22;

/// What may be imported although it carries no tensor: by-products of training scripts.
const INERT: [(&str, &str); 30] = [
    ("__builtin__", "set"),
    ("__builtin__", "frozenset"),
    ("_codecs", "encode"),
    ("__builtin__", "bytearray"),
    ("__builtin__", "complex"),
    ("__builtin__", "dict"),
    ("__builtin__", "list"),
    ("argparse", "Namespace"),
    ("builtins", "bytearray"),
    ("builtins", "complex"),
    ("builtins", "dict"),
    ("builtins", "list"),
    ("datetime", "date"),
    ("datetime", "datetime"),
    ("datetime", "timedelta"),
    ("numpy", "ndarray"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("types", "SimpleNamespace"),
    ("builtins", "frozenset"),
    ("builtins", "set"),
    ("collections", "Counter"),
    ("collections", "defaultdict"),
    ("copyreg", "_reconstructor"),
    ("numpy", "dtype"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy.core.multiarray", "scalar"),
    ("pathlib", "PosixPath"),
    ("torch", "Size"),
    ("torch", "device"),
];

/// Types of numbers, which scripts keep among their settings.
const KINDS: [&str; 9] = ["float16", "float32", "float64", "bfloat16", "int8", "int32", "int64", "uint8", "bool"];

/// Tensors of networks have at most five dimensions.
const MOST_DIMENSIONS: usize = 8;

#[derive(Default)]
struct Machine<'a> {
    input: &'a [u8],
    stack: Vec<Value>,
    marks: Vec<usize>,
    memo: HashMap<usize, Value>,
    tuples: Vec<Vec<Value>>,
    lists: Vec<Vec<Value>>,
    dicts: Vec<Vec<(Value, Value)>>,
    storages: HashMap<String, String>,
}

impl<'a> Machine<'a> {
    fn run(mut self) -> Outcome<(Pickle, &'a [u8])> {
        for _ in 0..MOST_OPCODES {
            let opcode = self.take(1)?[0];
            if opcode == b'.' {
                let root = self.pop()?;
                let pickle = Pickle { root, dicts: self.dicts, lists: self.lists, storages: self.storages };
                return Ok((pickle, self.input));
            }
            self.step(opcode)?;
        }
        Err(format!("it takes more than {MOST_OPCODES} steps to read, far more than any state dict"))
    }

    /// What each opcode does, but for the last.
    fn step(&mut self, opcode: u8) -> Outcome<()> {
        match opcode {
            0x80 => self.skip(1), // PROTO
            0x95 => self.skip(8), // FRAME
            b'(' => self.mark(),
            b'0' => self.pop().map(drop),
            b'1' => self.pop_mark().map(drop),
            b'N' => self.push(Value::None),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            b'J' => self.number(4).and_then(|value| self.push(Value::Int((value as u32 as i32).into()))),
            b'K' => self.number(1).and_then(|value| self.push(Value::Int(value as i64))),
            b'M' => self.number(2).and_then(|value| self.push(Value::Int(value as i64))),
            0x8a => self.long1(),
            b'G' => self.float(),
            b'X' => self.text(4),
            0x8c => self.text(1),
            0x8d => self.text(8),
            b'U' => self.old_text(1),
            b'T' => self.old_text(4),
            b'C' => self.opaque(1),
            b'B' => self.opaque(4),
            0x8e => self.opaque(8),
            b'}' => self.push_dict(Vec::new()),
            b']' => self.push_list(Vec::new()),
            b'a' => self.pop().and_then(|item| self.extend_list(vec![item])),
            b'e' => self.pop_mark().and_then(|items| self.extend_list(items)),
            b's' => self.set_item(),
            b'u' => self.pop_mark().and_then(|items| self.extend_dict(items)),
            b')' => self.push_tuple(Vec::new()),
            0x85..=0x87 => self.short_tuple(usize::from(opcode - 0x84)),
            b't' => self.pop_mark().and_then(|items| self.push_tuple(items)),
            b'q' => self.length(1).and_then(|position| self.memoize(position)),
            b'r' => self.length(4).and_then(|position| self.memoize(position)),
            b'p' => self.decimal().and_then(|position| self.memoize(position)),
            0x94 => self.memoize(self.memo.len()),
            b'h' => self.length(1).and_then(|position| self.recall(position)),
            b'j' => self.length(4).and_then(|position| self.recall(position)),
            b'g' => self.decimal().and_then(|position| self.recall(position)),
            b'c' => self.global(),
            0x93 => self.stack_global(),
            b'i' => self.instance(),
            b'o' => self.pop_mark().and_then(|_| self.push(Value::Opaque)),
            0x81 => self.forget(2), // NEWOBJ: class, arguments
            0x92 => self.forget(3), // NEWOBJ_EX: class, arguments, named arguments
            b'd' => self.pop_mark().and_then(|items| self.push_dict(items)),
            b'l' => self.pop_mark().and_then(|items| self.push_list(items)),
            b'V' => self.line().and_then(|text| self.push(Value::Str(text.into()))),
            b'S' => self.quoted(),
            b'I' | b'L' => self.decimal_number(),
            b'F' => self.line().and_then(|_| self.push(Value::Opaque)),
            b'Q' => self.persistent(),
            b'R' => self.reduce(),
            b'b' => self.pop().map(drop), // BUILD: attributes such as _metadata, no tensors
            other => Err(format!(
                "pickle opcode 0x{other:02x} has no place in a state dict; save model.state_dict(), not the model"
            )),
        }
    }

    /// GLOBAL: a name to import, on two lines.
    fn global(&mut self) -> Outcome<()> {
        let (module, name) = (self.line()?, self.line()?);
        self.import(module, name)
    }

    /// STACK_GLOBAL: a name to import, from the stack.
    fn stack_global(&mut self) -> Outcome<()> {
        let (name, module) = (self.pop()?, self.pop()?);
        let (Value::Str(module), Value::Str(name)) = (module, name) else {
            return Err("an import has no name".into());
        };
        self.import(module.to_string(), name.to_string())
    }

    /// INST: an object of a class that is named on two lines, from arguments behind a mark.
    fn instance(&mut self) -> Outcome<()> {
        self.global()?;
        drop(self.pop()?);
        drop(self.pop_mark()?);
        self.push(Value::Opaque)
    }

    /// An imported name, if it is one that is known to be harmless.
    fn import(&mut self, module: String, name: String) -> Outcome<()> {
        let known = match (module.as_str(), name.as_str()) {
            ("collections", "OrderedDict") => true,
            ("torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor") => true,
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => true,
            ("torch", kind) if KINDS.contains(&kind) => true,
            ("torch", storage) if storage.ends_with("Storage") => true,
            ("torch.storage", "UntypedStorage" | "TypedStorage" | "_UntypedStorage" | "_TypedStorage") => true,
            other => INERT.contains(&other),
        };
        if !known {
            return Err(pickled_module(&module, &name));
        }
        self.push(Value::Global(Rc::new([module, name])))
    }

    /// Takes values off the stack for one without a tensor.
    fn forget(&mut self, count: usize) -> Outcome<()> {
        for _ in 0..count {
            drop(self.pop()?);
        }
        self.push(Value::Opaque)
    }

    /// REDUCE: what a call stands for.
    fn reduce(&mut self) -> Outcome<()> {
        let (arguments, callable) = (self.pop()?, self.pop()?);
        let (Value::Global(callable), Value::Tuple(arguments)) = (callable, arguments) else {
            return Err("it calls something that is not a name".into());
        };
        let [module, name] = &*callable;
        let value = match (module.as_str(), name.as_str()) {
            ("collections", "OrderedDict") => return self.push_dict(Vec::new()),
            ("torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor") => self.tensor(arguments)?,
            // A parameter is its tensor: (data, requires_grad, hooks).
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
                self.tuples[arguments].first().cloned().ok_or("a parameter without a tensor")?
            }
            // Known to be harmless, or it would not have been imported.
            _ => Value::Opaque,
        };
        self.push(value)
    }

    /// BINPERSID: a persistent id of `torch.save`: ("storage", class, key, location, number of
    /// elements), and in the older format a view that modern PyTorch never writes.
    fn persistent(&mut self) -> Outcome<()> {
        if let Value::Tuple(parts) = self.pop()?
            && let [Value::Str(tag), Value::Global(class), Value::Str(key), _, Value::Int(elements)]
            | [Value::Str(tag), Value::Global(class), Value::Str(key), _, Value::Int(elements), Value::None] =
                &self.tuples[parts][..]
            && &**tag == "storage"
        {
            let storage = StorageRef { class: class[1].clone(), key: key.to_string(), elements: *elements };
            self.storages.insert(storage.key.clone(), storage.class.clone());
            return self.push(Value::Storage(Rc::new(storage)));
        }
        Err("a storage is described in an unknown way".into())
    }

    /// The arguments of `torch._utils._rebuild_tensor_v2`: storage, offset, size, stride, and more
    /// that does not matter here.
    fn tensor(&self, arguments: usize) -> Outcome<Value> {
        match &self.tuples[arguments][..] {
            [Value::Storage(storage), Value::Int(offset), size, stride, ..] => Ok(Value::Tensor(Rc::new(TensorRef {
                storage: storage.clone(),
                offset: *offset,
                size: self.integers(size)?,
                stride: self.integers(stride)?,
            }))),
            _ => Err("a tensor is described in an unknown way".into()),
        }
    }

    fn integers(&self, value: &Value) -> Outcome<Vec<i64>> {
        let Value::Tuple(items) = value else { return Err("a size is not a tuple".into()) };
        let items = &self.tuples[*items];
        if items.len() > MOST_DIMENSIONS {
            return Err(format!("a tensor has {} dimensions", items.len()));
        }
        items
            .iter()
            .map(
                |item| if let Value::Int(value) = item { Ok(*value) } else { Err("a size is not a number".to_owned()) },
            )
            .collect()
    }

    fn push(&mut self, value: Value) -> Outcome<()> {
        self.stack.push(value);
        Ok(())
    }

    fn push_list(&mut self, items: Vec<Value>) -> Outcome<()> {
        self.lists.push(items);
        self.push(Value::List(self.lists.len() - 1))
    }

    /// A dictionary of keys and values in turn.
    fn push_dict(&mut self, items: Vec<Value>) -> Outcome<()> {
        self.dicts.push(Vec::new());
        self.push(Value::Dict(self.dicts.len() - 1))?;
        self.extend_dict(items)
    }

    fn push_tuple(&mut self, items: Vec<Value>) -> Outcome<()> {
        self.tuples.push(items);
        self.push(Value::Tuple(self.tuples.len() - 1))
    }

    /// TUPLE1 to TUPLE3: a tuple of what is on top of the stack.
    fn short_tuple(&mut self, count: usize) -> Outcome<()> {
        let start = self.stack.len().checked_sub(count).ok_or("the stack is empty")?;
        if self.marks.last().is_some_and(|&mark| start < mark) {
            return Err("a tuple reaches over a mark".into());
        }
        let items = self.stack.split_off(start);
        self.push_tuple(items)
    }

    fn mark(&mut self) -> Outcome<()> {
        self.marks.push(self.stack.len());
        Ok(())
    }

    fn skip(&mut self, bytes: usize) -> Outcome<()> {
        self.take(bytes)?;
        Ok(())
    }

    fn take(&mut self, count: usize) -> Outcome<&[u8]> {
        let (taken, rest) = self.input.split_at_checked(count).ok_or("the pickle ends too early")?;
        self.input = rest;
        Ok(taken)
    }

    fn number(&mut self, bytes: usize) -> Outcome<u64> {
        Ok(self.take(bytes)?.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    fn length(&mut self, bytes: usize) -> Outcome<usize> {
        usize::try_from(self.number(bytes)?).map_err(|_| "a length is impossible".into())
    }

    fn float(&mut self) -> Outcome<()> {
        let bytes: [u8; 8] = self.take(8)?.try_into().map_err(|_| "a float is cut short")?;
        self.push(Value::Float(f64::from_be_bytes(bytes)))
    }

    /// LONG1: a little-endian two's complement number.
    fn long1(&mut self) -> Outcome<()> {
        let length = self.length(1)?;
        if length > 8 {
            // Such as PyTorch's magic number; no size is that large.
            self.take(length)?;
            return self.push(Value::Opaque);
        }
        let value = self.number(length)?;
        let unused = 64 - 8 * length as u32;
        let value = if length == 0 { 0 } else { (value << unused) as i64 >> unused };
        self.push(Value::Int(value))
    }

    fn text(&mut self, length_bytes: usize) -> Outcome<()> {
        let length = self.length(length_bytes)?;
        let text = String::from_utf8(self.take(length)?.to_vec()).map_err(|_| "a name is not UTF-8")?;
        self.push(Value::Str(text.into()))
    }

    /// BINSTRING: bytes that are text in what Python 2 wrote.
    fn old_text(&mut self, length_bytes: usize) -> Outcome<()> {
        let length = self.length(length_bytes)?;
        let text = String::from_utf8(self.take(length)?.to_vec());
        self.push(text.map_or(Value::Opaque, |text| Value::Str(text.into())))
    }

    /// STRING: such a text between quotes, on a line.
    fn quoted(&mut self) -> Outcome<()> {
        let line = self.line()?;
        let inner = ['\'', '"'].iter().find_map(|&quote| line.strip_prefix(quote)?.strip_suffix(quote));
        let plain = inner.filter(|text| !text.contains('\\'));
        let value = plain.map_or(Value::Opaque, |text| Value::Str(text.into()));
        self.push(value)
    }

    /// INT and LONG: a number on a line; 00 and 01 are truth values.
    fn decimal_number(&mut self) -> Outcome<()> {
        let line = self.line()?;
        let value = match &*line {
            "00" => Value::Bool(false),
            "01" => Value::Bool(true),
            number => number.trim_end_matches('L').parse().map_or(Value::Opaque, Value::Int),
        };
        self.push(value)
    }

    fn opaque(&mut self, length_bytes: usize) -> Outcome<()> {
        let length = self.length(length_bytes)?;
        self.take(length)?;
        self.push(Value::Opaque)
    }

    fn line(&mut self) -> Outcome<String> {
        let end = self.input.iter().position(|&byte| byte == b'\n').ok_or("the pickle ends too early")?;
        let line = String::from_utf8(self.take(end)?.to_vec()).map_err(|_| "a name is not UTF-8")?;
        self.take(1)?;
        Ok(line)
    }

    fn pop(&mut self) -> Outcome<Value> {
        if self.marks.last().is_some_and(|&mark| mark == self.stack.len()) {
            return Err("the stack is empty".into());
        }
        self.stack.pop().ok_or_else(|| "the stack is empty".into())
    }

    fn pop_mark(&mut self) -> Outcome<Vec<Value>> {
        let mark = self.marks.pop().ok_or("a mark is missing")?;
        Ok(self.stack.split_off(mark))
    }

    fn extend_list(&mut self, items: Vec<Value>) -> Outcome<()> {
        match self.stack.last() {
            Some(Value::List(list)) => self.lists[*list].extend(items),
            Some(Value::Opaque) => {}
            _ => return Err("items without a list".into()),
        }
        Ok(())
    }

    /// SETITEM: a key and a value for the dictionary below them.
    fn set_item(&mut self) -> Outcome<()> {
        let (value, key) = (self.pop()?, self.pop()?);
        self.extend_dict(vec![key, value])
    }

    fn extend_dict(&mut self, items: Vec<Value>) -> Outcome<()> {
        let dict = match self.stack.last() {
            Some(Value::Dict(dict)) => dict,
            Some(Value::Opaque) => return Ok(()),
            _ => return Err("items without a dictionary".into()),
        };
        let mut items = items.into_iter();
        while let Some(key) = items.next() {
            let value = items.next().ok_or("a key without a value")?;
            self.dicts[*dict].push((key, value));
        }
        Ok(())
    }

    fn memoize(&mut self, position: usize) -> Outcome<()> {
        let value = self.stack.last().ok_or("the stack is empty")?.clone();
        self.memo.insert(position, value);
        Ok(())
    }

    /// A number on a line of its own.
    fn decimal(&mut self) -> Outcome<usize> {
        self.line()?.parse().map_err(|_| "a position is no number".into())
    }

    fn recall(&mut self, position: usize) -> Outcome<()> {
        let value = self.memo.get(&position).ok_or("a reference points nowhere")?.clone();
        self.push(value)
    }
}
