//! A hash that is the same on every run and every machine: nothing in a decision may depend on chance, not even by accident.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

/// A map whose hashes are fixed. Its order is never used.
pub(crate) type Map<K, V> = HashMap<K, V, BuildHasherDefault<Fixed>>;

/// Multiplies and rotates words, and mixes at the end.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Fixed(u64);

impl Fixed {
    #[inline]
    fn word(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(26) ^ word).wrapping_mul(0x9fb2_1c65_1e98_df25);
    }
}

impl Hasher for Fixed {
    fn write(&mut self, bytes: &[u8]) {
        let (whole, rest) = bytes.as_chunks::<8>();
        for chunk in whole {
            self.word(u64::from_le_bytes(*chunk));
        }
        let mut last = [0; 8];
        for (into, byte) in last.iter_mut().zip(rest) {
            *into = *byte;
        }
        self.word(u64::from_le_bytes(last) ^ rest.len() as u64);
    }

    #[inline]
    fn write_u8(&mut self, n: u8) {
        self.word(u64::from(n));
    }

    #[inline]
    fn write_u32(&mut self, n: u32) {
        self.word(u64::from(n));
    }

    #[inline]
    fn write_u64(&mut self, n: u64) {
        self.word(n);
    }

    #[inline]
    fn write_usize(&mut self, n: usize) {
        self.word(n as u64);
    }

    #[inline]
    fn finish(&self) -> u64 {
        let z = self.0 ^ (self.0 >> 32);
        z.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (z >> 29)
    }
}
