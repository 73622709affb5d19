//! Files that are no state dict, and what makes one of them.

use std::path::Path;

/// A kind of file by its first bytes, and what to do about it.
struct Foreign {
    starts: &'static [&'static [u8]],
    what: &'static str,
}

const FOREIGN: [Foreign; 6] = [
    Foreign {
        starts: &[b"version https://git-lfs"],
        what: "it is the pointer that Git LFS leaves in place of a file; fetch the file itself: git lfs pull",
    },
    Foreign {
        starts: &[b"<"],
        what: "it is a web page or another text, not weights: the download went wrong; open its address in a browser to \
               see why",
    },
    Foreign { starts: &[b"\x89HDF"], what: "it is an HDF5 file, as Keras writes them; expected PyTorch's weights" },
    Foreign { starts: &[b"GGUF"], what: "it is a GGUF file, for language models; expected PyTorch's weights" },
    Foreign {
        starts: &[b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0", b"BZh"],
        what: "it is compressed; unpack it first",
    },
    Foreign { starts: &[b"\x93NUMPY"], what: "it is one NumPy array; expected the tensors of a network by name" },
];

/// What a file is that is none of the formats that are read, if its first bytes tell.
pub(super) fn recognize(bytes: &[u8]) -> Option<&'static str> {
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    if text.starts_with(b"{") && text[..text.len().min(1 << 20)].windows(12).any(|part| part == b"\"weight_map\"") {
        return Some(
            "it is the index of weights in several files; put them into one: python3 -c \"import glob, safetensors.torch \
             as s; s.save_file({k: v for f in glob.glob('model-*.safetensors') for k, v in s.load_file(f).items()}, \
             'weights.safetensors')\"",
        );
    }
    let starts = |foreign: &&Foreign| foreign.starts.iter().any(|start| text.starts_with(start));
    FOREIGN.iter().find(starts).map(|foreign| foreign.what)
}

/// The line that makes a state dict of a whole model, or of a dictionary with one in it, where
/// `FILE` is the file (see [`name_the_file`]).
pub(super) fn save_a_state_dict() -> String {
    "if it holds a whole model from somebody you trust, save its state dict where its code can be imported: python3 -c \
     \"import torch; m = torch.load('FILE', map_location='cpu', weights_only=False); m = m if hasattr(m, 'state_dict') else \
     next(v for v in m.values() if hasattr(v, 'state_dict') or isinstance(v, dict)); torch.save(m.state_dict() if \
     hasattr(m, 'state_dict') else m, 'weights.pth')\""
        .to_owned()
}

/// A message with the file's name in its lines of Python, unless the name would need escapes there.
pub(super) fn name_the_file(message: &str, file: &Path) -> String {
    match file.to_str().filter(|name| !name.contains(['\'', '"', '\\', '$', '`', '!', '\n'])) {
        Some(name) => message.replace("'FILE'", &format!("'{name}'")),
        None => message.to_owned(),
    }
}

/// What to say of a pickle that holds a module, or asks for something else by name.
pub(super) fn pickled_module(module: &str, name: &str) -> String {
    format!(
        "it asks for {module}.{name}, which loading weights never needs, and nothing in a file is executed; {}",
        save_a_state_dict()
    )
}
