// SPDX-License-Identifier: GPL-2.0-or-later

//! An imaginary machine for tests: a directory that stands for the root.

use std::fs::{self, DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Files of an imaginary machine.
pub(crate) struct Machine(pub(crate) PathBuf);

impl Machine {
    pub(crate) fn new(name: &str) -> Self {
        let name = format!("smbdirectctl-doctor-{name}-{}", std::process::id());
        let root = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&root);
        let machine = Self(root);
        machine.directory("");
        machine
    }

    /// Makes a directory, and all above it, to which only their owner can write.
    pub(crate) fn directory(&self, path: &str) -> PathBuf {
        let path = self.0.join(path);
        let made = DirBuilder::new().recursive(true).mode(0o755).create(&path);
        made.expect("a directory");
        path
    }

    pub(crate) fn file(&self, path: &str, text: &str) -> PathBuf {
        let file = Path::new(path);
        self.directory(file.parent().and_then(Path::to_str).expect("a directory"));
        fs::write(self.0.join(path), text).expect("a file");
        self.mode(path, 0o644);
        self.0.join(path)
    }

    /// Makes a script.
    pub(crate) fn program(&self, path: &str, script: &str) -> PathBuf {
        let file = self.file(path, &format!("#!/bin/sh\n{script}\n"));
        self.mode(path, 0o755);
        file
    }

    pub(crate) fn mode(&self, path: &str, mode: u32) {
        let permissions = Permissions::from_mode(mode);
        fs::set_permissions(self.0.join(path), permissions).expect("permissions");
    }

    pub(crate) fn link(&self, path: &str, target: &Path) -> PathBuf {
        let link = self.0.join(path);
        let _ = fs::remove_file(&link);
        let directory = Path::new(path).parent().and_then(Path::to_str);
        self.directory(directory.expect("a directory"));
        symlink(target, &link).expect("a link");
        link
    }

    /// Makes a process that runs a program.
    pub(crate) fn process(&self, pid: i32, program: &Path) {
        self.link(&format!("proc/{pid}/exe"), program);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A test that makes scripts and runs them does so alone: a process that another thread starts at the same time may
/// inherit the open script for a moment, and nobody can run a script that is open for writing.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
