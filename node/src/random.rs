//! Random bytes: the operating system's, fetched in bulk, since a request draws several times and each
//! call of the system costs as much as parsing a small request's head.

use std::cell::RefCell;

use ring::rand::{SecureRandom, SystemRandom};

/// Fetched at once, by each thread for itself.
const POOL_BYTES: usize = 1_024;

struct Pool {
    bytes: [u8; POOL_BYTES],
    /// How many of them, from the front, nobody has had.
    left: usize,
}

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { bytes: [0; POOL_BYTES], left: 0 }) };
}

/// Random bytes that nobody else gets: they are wiped where they lay.
pub fn draw<const N: usize>() -> [u8; N] {
    const { assert!(N <= POOL_BYTES) };
    POOL.with_borrow_mut(|pool| {
        if pool.left < N {
            let filled = SystemRandom::new().fill(&mut pool.bytes);
            filled.expect("the operating system gives random bytes");
            pool.left = POOL_BYTES;
        }
        let drawn = &mut pool.bytes[pool.left - N..pool.left];
        pool.left -= N;
        let bytes = (&*drawn).try_into().expect("so many");
        drawn.fill(0);
        bytes
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_bytes_are_drawn_twice_on_any_thread() {
        let draw = || (0..500).map(|_| draw::<16>()).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(draw)).collect();
        let drawn: Vec<_> = threads.into_iter().flat_map(|one| one.join().unwrap()).collect();
        let different: BTreeSet<_> = drawn.iter().collect();
        assert_eq!(different.len(), drawn.len());
        assert!(!different.contains(&[0; 16]));
    }
}
