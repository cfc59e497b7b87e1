//! The buffer that a thread lends to one step of a flow.

use std::cell::Cell;

/// The buffer of this thread, for as long as one step takes.
pub(super) struct Buffer(pub(super) Box<[u8]>);

thread_local! {
    /// Not state: what is in it means nothing between two steps.
    static SPARE: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

impl Buffer {
    pub(super) fn take() -> Buffer {
        let spare = SPARE.try_with(Cell::take).ok().flatten();
        Buffer(spare.unwrap_or_else(|| vec![0; BUFFER].into_boxed_slice()))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // An error means that the thread ends; then the buffer goes, too.
        let _ending = SPARE.try_with(|spare| spare.set(Some(std::mem::take(&mut self.0))));
    }
}

/// What is copied at once, in bytes.
pub(super) const BUFFER: usize = 64 * 1024;
