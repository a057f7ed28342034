// SPDX-License-Identifier: GPL-2.0-or-later

//! Loads libibverbs and librdmacm only when they are needed, so that the same program runs on machines with and without
//! RDMA devices.
//!
//! The libraries are never unloaded. [`Channel::new`](super::Channel::new) loads them, and everything else needs an
//! object that comes from a channel, so their functions are loaded whenever they can be called.

use std::io;

use libloading::Library;

/// Declares functions of libraries, and a module `loaded` whose `load` finds all of them.
macro_rules! functions {
    ($($library:literal {
        $(fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)?;)*
    })*) => {
        struct Functions {
            $($($name: unsafe extern "C" fn($($type),*) $(-> $result)?,)*)*
        }

        mod loaded {
            use std::io;
            use std::sync::OnceLock;

            use super::Functions;
            use crate::fabric::verbs::ffi::library::{open, symbol};

            static FUNCTIONS: OnceLock<Result<Functions, String>> = OnceLock::new();

            fn find() -> io::Result<Functions> {
                $(
                    let library = open($library)?;
                    // SAFETY: the types are those of the library's header.
                    $(let $name = unsafe { symbol(library, stringify!($name))? };)*
                )*
                Ok(Functions { $($($name,)*)* })
            }

            /// Loads the libraries, unless they are loaded. If that failed the first time, every call returns that
            /// error.
            pub(in super::super) fn load() -> io::Result<()> {
                let found = FUNCTIONS.get_or_init(|| find().map_err(|error| error.to_string()));
                let missing = |why: &String| io::Error::new(io::ErrorKind::NotFound, why.clone());
                found.as_ref().map(drop).map_err(missing)
            }

            pub(super) fn functions() -> &'static Functions {
                match FUNCTIONS.get() {
                    Some(Ok(functions)) => functions,
                    _ => unreachable!("called before the libraries were loaded"),
                }
            }
        }

        $($(
            /// # Safety
            ///
            /// The caller does what the library's manual requires.
            pub(super) unsafe fn $name($($argument: $type),*) $(-> $result)? {
                // SAFETY: the caller does what `# Safety` above requires.
                unsafe { (loaded::functions().$name)($($argument),*) }
            }
        )*)*
    };
}
pub(super) use functions;

/// Loads a library for as long as the process lives.
pub(super) fn open(name: &'static str) -> io::Result<&'static Library> {
    // SAFETY: the library's initialization does not disturb anything here.
    let library = unsafe { Library::new(name) };
    let library = library.map_err(|error| {
        let text = format!("{error} (rdma-core: apt install librdmacm1, dnf install librdmacm)");
        io::Error::new(io::ErrorKind::NotFound, text)
    })?;
    Ok(Box::leak(Box::new(library)))
}

/// Finds a function of a library.
///
/// # Safety
///
/// `T` is the type of a pointer to this very function.
pub(super) unsafe fn symbol<T: Copy>(library: &'static Library, name: &str) -> io::Result<T> {
    // SAFETY: the caller guarantees the type, as `# Safety` above requires; the library is never unloaded.
    let symbol = unsafe { library.get::<T>(name.as_bytes()) };
    symbol.map(|symbol| *symbol).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_names_a_missing_library_and_its_package() {
        let error = open("libsmbdirect-of-nobody.so.1").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let text = error.to_string();
        assert!(text.contains("libsmbdirect-of-nobody.so.1"), "{text}");
        assert!(text.contains("librdmacm1"), "{text}");
    }

    #[test]
    fn the_error_names_a_missing_function() {
        let library = open("libc.so.6").unwrap();
        // SAFETY: the type is that of getpid.
        let found = unsafe { symbol::<unsafe extern "C" fn() -> i32>(library, "getpid") };
        // SAFETY: as above.
        let id = unsafe { found.unwrap()() };
        assert_eq!(u32::try_from(id), Ok(std::process::id()));
        // SAFETY: there is no such function.
        let missing = unsafe { symbol::<unsafe extern "C" fn()>(library, "of_nobody") };
        assert!(missing.unwrap_err().to_string().contains("of_nobody"));
    }
}
