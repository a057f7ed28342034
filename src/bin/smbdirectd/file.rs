// SPDX-License-Identifier: GPL-2.0-or-later

//! The configuration file on the disk.
//!
//! A daemon that runs must not take over what a moment between two writes looks like: a program that replaces the file
//! may remove it first, or empty it. So a [reload](ConfigFile::read_again) refuses a file that is gone or empty if it
//! was not so before, although [the start](ConfigFile::read) takes either for a file with all defaults.

use std::fmt::Display;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;
use smbdirect::broker::Settings;

use super::{Failure, prepare};

/// The configuration file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConfigFile<'a> {
    pub(crate) path: &'a Path,
    /// If there is no such file when the daemon starts, all settings have their defaults.
    pub(crate) may_be_missing: bool,
}

/// What was found at the path of the configuration file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// There is no file.
    Nothing,
    /// A file without a single word or comment.
    Empty,
    /// Anything else.
    Text,
}

impl ConfigFile<'_> {
    /// Reads the file for a daemon that starts. It may be a pipe.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or has a mistake.
    pub(crate) fn read(&self) -> Result<(Settings, Found), Failure> {
        match File::open(self.path) {
            Err(error) if self.may_be_missing && error.kind() == ErrorKind::NotFound => {
                self.parse(&[], Found::Nothing)
            }
            Err(error) => Err(self.failed(&error)),
            Ok(file) => self.contents(file),
        }
    }

    /// Reads the file again for a daemon that runs; `before` is what its settings are from.
    ///
    /// The daemon must not wait for another process: meanwhile, it would obey no signal, and the service manager would
    /// take it for dead.
    ///
    /// # Errors
    ///
    /// Those of [`read`](Self::read). The file is a pipe, a terminal, or anything else that is not a file. It is missing
    /// or empty, and was not so before.
    pub(crate) fn read_again(&self, before: Found) -> Result<(Settings, Found), Failure> {
        let mut options = OpenOptions::new();
        // A pipe is opened without waiting for its writer.
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
        options.read(true).custom_flags(flags.bits() as i32);
        let file = match options.open(self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound && before != Found::Nothing => {
                let or = match self.may_be_missing {
                    true => ", or restart smbdirectd, which then uses the defaults",
                    false => "",
                };
                return Err(self.wrong(format!("the file is gone; put it back and reload{or}")));
            }
            Err(error) if error.kind() == ErrorKind::NotFound && self.may_be_missing => {
                return self.parse(&[], Found::Nothing);
            }
            result => result.map_err(|error| self.failed(&error))?,
        };
        let metadata = file.metadata().map_err(|error| self.failed(&error))?;
        if !metadata.is_file() {
            return Err(self.wrong("this is not a regular file, which a reload needs"));
        }
        let (settings, found) = self.contents(file)?;
        if found == Found::Empty && before == Found::Text {
            return Err(self.wrong(
                "the file is empty now; write a comment into it if all settings shall have their defaults",
            ));
        }
        Ok((settings, found))
    }

    fn contents(&self, file: File) -> Result<(Settings, Found), Failure> {
        let mut bytes = Vec::new();
        // One byte more shows that the file is too long.
        let most = Settings::LONGEST_FILE as u64 + 1;
        let read = file.take(most).read_to_end(&mut bytes);
        read.map_err(|error| self.failed(&error))?;
        let found = match bytes.trim_ascii() {
            [] => Found::Empty,
            _ => Found::Text,
        };
        self.parse(&bytes, found)
    }

    fn parse(&self, bytes: &[u8], found: Found) -> Result<(Settings, Found), Failure> {
        let settings = Settings::parse_file(bytes).map_err(|error| self.wrong(error))?;
        Ok((settings, found))
    }

    /// Returns the failure that the file is wrong.
    pub(crate) fn wrong(&self, why: impl Display) -> Failure {
        Failure::Config(format!("{}: {why}", self.path.display()))
    }

    fn failed(&self, error: &io::Error) -> Failure {
        let hint = match error.kind() {
            ErrorKind::PermissionDenied => {
                format!("; it must be readable by user {}", prepare::own_user())
            }
            _ => String::new(),
        };
        Failure::Failed(format!("{}: {error}{hint}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::{env, fs, process};

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    /// A path at which there is nothing, before this is used and after it is dropped.
    struct Spot(PathBuf);

    impl Spot {
        fn new(name: &str) -> Self {
            let name = format!("smbdirectd-file-{}-{name}", process::id());
            Self(env::temp_dir().join(name))
        }

        /// The file there, which may be missing like the one in /etc.
        fn file(&self) -> ConfigFile<'_> {
            ConfigFile {
                path: &self.0,
                may_be_missing: true,
            }
        }

        fn write(&self, bytes: &[u8]) {
            fs::write(&self.0, bytes).unwrap();
        }
    }

    impl Drop for Spot {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }

    #[track_caller]
    fn refused(result: Result<(Settings, Found), Failure>, words: &str) {
        match result {
            Err(Failure::Config(why)) => assert!(why.contains(words), "{why}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn says_who_must_be_able_to_read_the_file() {
        let spot = Spot::new("closed");
        let denied = io::Error::from(ErrorKind::PermissionDenied);
        let Failure::Failed(why) = spot.file().failed(&denied) else {
            panic!("the file is not wrong");
        };
        let words = format!("; it must be readable by user {}", prepare::own_user());
        assert!(why.ends_with(&words), "{why}");
    }

    #[test]
    fn a_file_that_is_gone_or_empty_for_a_moment_is_not_taken_for_the_defaults() {
        let spot = Spot::new("moment");
        let file = spot.file();
        spot.write(b"reactors = 3");
        let (settings, found) = file.read().unwrap();
        assert_eq!((settings.broker.reactors, found), (3, Found::Text));
        spot.write(b" \n");
        refused(file.read_again(found), "the file is empty now");
        fs::remove_file(&spot.0).unwrap();
        refused(file.read_again(found), "the file is gone; put it back");
        // A comment says that the defaults are meant.
        spot.write(b"# nothing\n");
        let (settings, found) = file.read_again(found).unwrap();
        assert_eq!((settings, found), (Settings::default(), Found::Text));
    }

    #[test]
    fn what_was_missing_or_empty_at_the_start_may_stay_so_and_may_come() {
        let spot = Spot::new("start");
        let file = spot.file();
        let (settings, missing) = file.read().unwrap();
        assert_eq!((&settings, missing), (&Settings::default(), Found::Nothing));
        assert_eq!(
            file.read_again(missing).unwrap(),
            (settings.clone(), missing)
        );
        spot.write(b"");
        let (_, empty) = file.read_again(missing).unwrap();
        assert_eq!(empty, Found::Empty);
        assert_eq!(file.read_again(empty).unwrap(), (settings, empty));
        spot.write(b"reactors = 3");
        let (settings, found) = file.read_again(empty).unwrap();
        assert_eq!((settings.broker.reactors, found), (3, Found::Text));
        // An empty file that is gone was there, all the same.
        fs::remove_file(&spot.0).unwrap();
        refused(file.read_again(empty), "the file is gone");
    }

    #[test]
    fn a_file_that_is_named_on_the_command_line_has_to_exist() {
        let spot = Spot::new("named");
        let file = ConfigFile {
            may_be_missing: false,
            ..spot.file()
        };
        assert!(matches!(file.read(), Err(Failure::Failed(why)) if why.contains("No such file")));
        refused(file.read_again(Found::Text), "the file is gone");
    }

    #[test]
    fn a_reload_reads_nothing_that_could_keep_it_waiting() {
        let spot = Spot::new("pipe");
        // Nothing has opened this pipe for writing.
        mknodat(CWD, &spot.0, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let words = "this is not a regular file";
        refused(spot.file().read_again(Found::Text), words);
        let device = ConfigFile {
            path: Path::new("/dev/null"),
            may_be_missing: false,
        };
        refused(device.read_again(Found::Text), words);
        assert_eq!(device.read().unwrap().1, Found::Empty);
    }

    #[test]
    fn no_file_takes_more_memory_than_a_configuration_needs() {
        let spot = Spot::new("long");
        let file = spot.file();
        let mut text = vec![b'#'; Settings::LONGEST_FILE];
        spot.write(&text);
        assert_eq!(file.read().unwrap().1, Found::Text);
        text.push(b'#');
        spot.write(&text);
        refused(file.read(), "the file is longer than 1 MiB");
        refused(
            file.read_again(Found::Text),
            "the file is longer than 1 MiB",
        );
        // This one never ends.
        let endless = ConfigFile {
            path: Path::new("/dev/zero"),
            may_be_missing: false,
        };
        refused(endless.read(), "/dev/zero: the file is longer than 1 MiB");
    }
}
