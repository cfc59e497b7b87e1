//! Arithmetic of weights that turns and rings share.

/// The same proportions in the smallest whole numbers.
pub(super) fn reduced(weights: &[u32]) -> Vec<u32> {
    let divisor = weights.iter().fold(0, |a, b| common_divisor(a, *b)).max(1);
    weights.iter().map(|w| w / divisor).collect()
}

fn common_divisor(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
