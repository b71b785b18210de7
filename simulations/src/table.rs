//! A hash table by 64-bit keys that can be looked up and never walked through, so that the order
//! inside, which would differ from machine to machine, cannot reach a run.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use hansa_core::rng::mix;

/// Values by 64-bit keys.
#[derive(Debug)]
pub struct Table<T>(HashMap<u64, T, BuildHasherDefault<Mixed>>);

impl<T> Table<T> {
    /// What has this key.
    pub fn get(&self, key: u64) -> Option<&T> {
        self.0.get(&key)
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, key: u64) -> Option<&mut T> {
        self.0.get_mut(&key)
    }

    /// Whether anything has this key.
    pub fn holds(&self, key: u64) -> bool {
        self.0.contains_key(&key)
    }

    /// Puts a value in the place of what has this key.
    pub fn insert(&mut self, key: u64, value: T) {
        self.0.insert(key, value);
    }

    /// Takes out what has this key.
    pub fn remove(&mut self, key: u64) -> Option<T> {
        self.0.remove(&key)
    }
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(HashMap::default())
    }
}

impl<T> FromIterator<(u64, T)> for Table<T> {
    fn from_iter<I: IntoIterator<Item = (u64, T)>>(pairs: I) -> Self {
        Self(pairs.into_iter().collect())
    }
}

/// A hasher for keys that are numbers already.
#[derive(Debug, Default)]
struct Mixed(u64);

impl Hasher for Mixed {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = mix(self.0 ^ u64::from(*byte));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = mix(word);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
