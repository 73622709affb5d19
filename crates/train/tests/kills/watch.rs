//! What happens to the files below a folder, one thing after another, as the kernel tells it.

use rustix::fd::OwnedFd;
use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init};
use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::fs;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Something that happened to a file.
pub struct Event {
    pub path: PathBuf,
    /// Whether it was opened, made, written, renamed or closed.
    pub what: ReadFlags,
}

/// Folders that are watched.
pub struct Watch {
    inotify: OwnedFd,
    /// By the numbers that the kernel calls them.
    folders: HashMap<i32, PathBuf>,
    /// What the kernel told and nobody asked for yet.
    ahead: VecDeque<Event>,
}

impl Watch {
    /// Watches everything below `folder`, from now on.
    pub fn below(folder: &Path) -> Self {
        let inotify = init(CreateFlags::CLOEXEC).expect("the kernel tells what happens to files");
        let mut watch = Self { inotify, folders: HashMap::new(), ahead: VecDeque::new() };
        watch.add(folder);
        watch
    }

    fn add(&mut self, folder: &Path) {
        let closed = WatchFlags::CLOSE_WRITE;
        let happens = WatchFlags::OPEN | WatchFlags::CREATE | WatchFlags::MODIFY | WatchFlags::MOVE;
        // A folder that is gone again has nothing to tell.
        let Ok(number) = add_watch(&self.inotify, folder, happens | closed) else { return };
        self.folders.insert(number, folder.to_owned());
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.add(&entry.path());
            }
        }
    }

    /// Waits for the next thing that happens.
    pub fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.ahead.pop_front() {
                return event;
            }
            self.read();
        }
    }

    /// Waits until the kernel has something to tell.
    fn read(&mut self) {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut told = Reader::new(&self.inotify, &mut buffer);
        let mut made = Vec::new();
        loop {
            let event = told.next().expect("the kernel tells what happens to files");
            if let (Some(folder), Some(name)) = (self.folders.get(&event.wd()), event.file_name()) {
                let path = folder.join(OsStr::from_bytes(name.to_bytes()));
                let what = event.events();
                match what.contains(ReadFlags::ISDIR) {
                    // Watching opens folders too, so that tells nothing.
                    true if what.contains(ReadFlags::CREATE) => made.push(path),
                    true => {}
                    false => self.ahead.push_back(Event { path, what }),
                }
            }
            if told.is_buffer_empty() {
                break;
            }
        }
        made.iter().for_each(|folder| self.add(folder));
    }
}
