//! Archives that are no plain tar files of images, and the shell commands that make them usable.

use std::path::Path;

/// A way tar files are compressed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Compression {
    pub name: &'static str,
    /// First bytes of such a file.
    magic: &'static [u8],
    /// Endings of such tar files; the first is the one [`Self::program`] takes off.
    endings: &'static [&'static str],
    /// Puts the unpacked file in its place.
    program: &'static str,
}

const COMPRESSIONS: [Compression; 4] = [
    Compression { name: "gzip", magic: b"\x1f\x8b", endings: &[".tar.gz", ".tgz"], program: "gunzip" },
    Compression { name: "zstd", magic: b"\x28\xb5\x2f\xfd", endings: &[".tar.zst", ".tzst"], program: "unzstd --rm" },
    Compression { name: "xz", magic: b"\xfd7zXZ\0", endings: &[".tar.xz", ".txz"], program: "unxz" },
    Compression { name: "bzip2", magic: b"BZh", endings: &[".tar.bz2", ".tbz2", ".tbz"], program: "bunzip2" },
];

/// Bytes at the beginning of a file that tell its compression.
pub(crate) const MAGIC_BYTES: usize = 6;

impl Compression {
    /// By a file's name.
    pub(crate) fn of_name(name: &Path) -> Option<&'static Self> {
        let name = name.file_name()?.to_string_lossy().to_ascii_lowercase();
        COMPRESSIONS.iter().find(|compression| compression.endings.iter().any(|ending| name.ends_with(ending)))
    }

    /// By a file's first bytes.
    pub(crate) fn of_content(start: &[u8]) -> Option<&'static Self> {
        COMPRESSIONS.iter().find(|compression| start.starts_with(compression.magic))
    }

    /// Unpacks `files` of `folder`, which have an ending of the compression.
    pub(crate) fn unpack_all(&self, folder: &Path, files: &[&Path]) -> String {
        let all = |ending: &&str| files.len() > 1 && files.iter().all(|file| file.to_string_lossy().ends_with(ending));
        let names = match self.endings.iter().find(|ending| all(ending)) {
            Some(ending) => vec![format!("{}/*{ending}", quoted(&folder.to_string_lossy()))],
            None => files.iter().map(|file| quoted(&folder.join(file).to_string_lossy())).collect(),
        };
        format!("{} {}", self.program, names.join(" "))
    }

    /// Unpacks `file`, which is called as if it were a plain tar file.
    pub(crate) fn unpack_misnamed(&self, file: &Path) -> String {
        let right = format!("{}{}", file.display(), self.endings[0].trim_start_matches(".tar"));
        let right = quoted(&right);
        format!("mv {} {right} && {} {right}", quoted(&file.to_string_lossy()), self.program)
    }
}

/// Whether a name is one of a tar file, plain or compressed.
pub(crate) fn is_tar(name: &Path) -> bool {
    has_tar_ending(name) || Compression::of_name(name).is_some()
}

/// Whether a name is one of a plain tar file.
pub(crate) fn has_tar_ending(name: &Path) -> bool {
    name.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("tar"))
}

/// A text as one word of a shell's command line.
pub fn quoted(text: &str) -> String {
    let plain = |letter: char| letter.is_alphanumeric() || "/._-+,:@".contains(letter);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// Unpacks every tar file `folder` holds into a folder of its name.
pub(crate) fn unpack_each(folder: &Path) -> String {
    format!("cd {} && for t in *.tar; do {}; done", quoted(&folder.to_string_lossy()), unpack_one())
}

/// Unpacks every tar file within the tar file `file` into a folder of its name beside it.
pub(crate) fn unpack_inner(file: &Path) -> String {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    format!(
        "cd {} && mkdir .inner && tar xf {} -C .inner && find .inner -type f | while read -r t; do {}; done; rm -r .inner",
        quoted(&folder.to_string_lossy()),
        quoted(&name),
        unpack_one()
    )
}

/// Unpacks `$t` into a folder of its name without the ending.
fn unpack_one() -> &'static str {
    r#"c=${t##*/}; c=${c%.t*}; mkdir -p "$c" && tar xf "$t" -C "$c""#
}
