//! The system's files, read anew when they have changed.

#![forbid(unsafe_code)]

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::Options;
use super::config::{Settings, Source};
use super::hosts::Hosts;
use super::sort::Policy;

/// What tells one state of a file from another: device, inode, size, and the times of its content and its inode.
type Stamp = (u64, u64, u64, i64, i64, i64, i64);

/// A file that is read anew when it has changed. One that can't be read counts as empty.
pub struct Watched<T> {
    path: PathBuf,
    stamp: Option<Option<Stamp>>,
    value: Rc<T>,
}

impl<T: Default> Watched<T> {
    fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), stamp: None, value: Rc::default() }
    }

    /// Returns the content, and whether it has changed since the last time.
    pub fn get(&mut self, parse: impl FnOnce(&str) -> T) -> (Rc<T>, bool) {
        let stamp = std::fs::metadata(&self.path).ok().map(|data| {
            (data.dev(), data.ino(), data.size(), data.mtime(), data.mtime_nsec(), data.ctime(), data.ctime_nsec())
        });
        let has_changed = self.stamp != Some(stamp);
        if has_changed {
            self.stamp = Some(stamp);
            let bytes = std::fs::read(&self.path).unwrap_or_default();
            self.value = Rc::new(parse(&String::from_utf8_lossy(&bytes)));
        }
        (self.value.clone(), has_changed)
    }
}

/// The files of one resolver.
pub struct Files {
    /// `hosts`.
    pub hosts: Watched<Hosts>,
    /// `resolv.conf`, and what the resolver's own options replace.
    pub settings: Watched<Settings>,
    /// `nsswitch.conf`.
    pub sources: Watched<Vec<Source>>,
    /// `gai.conf`.
    pub policy: Watched<Policy>,
}

impl Files {
    /// Reads nothing yet.
    pub fn new(options: &Options) -> Self {
        Self {
            hosts: Watched::new(&options.hosts),
            settings: Watched::new(&options.resolv_conf),
            sources: Watched::new(&options.nsswitch_conf),
            policy: Watched::new(&options.gai_conf),
        }
    }
}
