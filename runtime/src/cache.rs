//! Where downloads are kept: `$HANSA_CACHE`, else `$XDG_CACHE_HOME/hansa`, else `~/.cache/hansa`.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

/// The user's cache; absent when neither variable nor home folder is known.
pub fn dir() -> Option<PathBuf> {
    resolve(|name| env::var_os(name))
}

/// An empty variable counts as absent, and a relative one too (the XDG rule): a cache that moves
/// with the working folder is none.
fn resolve(var: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let absolute = |name: &str| var(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("HANSA_CACHE")
        .or_else(|| absolute("XDG_CACHE_HOME").map(|path| path.join("hansa")))
        .or_else(|| absolute("HOME").map(|path| path.join(".cache").join("hansa")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(pairs: &'static [(&str, &str)]) -> Option<PathBuf> {
        resolve(|name| pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1.into()))
    }

    #[test]
    fn own_variable_wins_then_xdg_then_home() {
        let all = &[("HANSA_CACHE", "/a"), ("XDG_CACHE_HOME", "/b"), ("HOME", "/c")];
        assert_eq!(with(all), Some("/a".into()));
        assert_eq!(with(&[("XDG_CACHE_HOME", "/b"), ("HOME", "/c")]), Some("/b/hansa".into()));
        assert_eq!(with(&[("HOME", "/c")]), Some("/c/.cache/hansa".into()));
        assert_eq!(with(&[]), None);
    }

    #[test]
    fn empty_and_relative_folders_are_passed_over() {
        let odd = &[("HANSA_CACHE", ""), ("XDG_CACHE_HOME", "cache"), ("HOME", "/c")];
        assert_eq!(with(odd), Some("/c/.cache/hansa".into()));
    }
}
