//! Stacks for greenlets: slabs of address space, guards, and pools of warm stacks.
//!
//! One stack occupies a *slot* of a slab. From low to high addresses:
//!
//! ```text
//!  slab (1 GiB, 2 MiB aligned, its first 1 MiB unused)
//!  ├── slot 0 ──────────────────────────────────────────┬── slot 1 ─────────
//!  │ guard (1 MiB) │ usable: C stack grows down  ◄──────┤│ host area ▲ grows up ││ guard ...
//!  └───────────────┴─────────────────────────────────────┴──────────────────────┴─────────
//!                  ▲ Stack::limit + guard                ▲ Stack::base           ▲ Stack::top
//! ```
//!
//! Invariants:
//! - A slot has one owner: a [`Stack`] is handed out once and comes back through [`StackPool::release`].
//! - A guard never holds memory: touching it is a SIGSEGV. 1 MiB, since code that does not probe its frames
//!   (OpenBLAS) jumps over a page.
//! - The slab's odd offset puts a guard and the hottest page of the slot below it under one page-table page:
//!   4 KiB of page tables for each stack instead of 8.
//! - Address space only is reserved (`MAP_NORESERVE`): memory is used page by page as a stack is touched.
//!
//! Slabs belong to the process and are kept until it ends; each thread keeps its warm stacks to itself. This file
//! knows nothing of contexts or greenlets.

#![forbid(unsafe_code)]

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::sys::memory;

/// The default distance between two stacks, guard included, in bytes.
pub const DEFAULT_STACK_SIZE: usize = 8 << 20;
/// The smallest stack that can be asked for, guard included, in bytes.
pub const MINIMUM_STACK_SIZE: usize = 64 << 10;
/// The largest stack that can be asked for, in bytes: half a slab.
pub const MAXIMUM_STACK_SIZE: usize = SLAB_SIZE / 2;

const SLAB_SIZE: usize = 1 << 30;
const PAGE: usize = 4096;
/// Where stacks may shrink to by themselves when the system refuses address space, in bytes.
const SHRUNK_STACK_SIZE: usize = 256 << 10;
/// Address space that is left to others, the heap above all, once the system has refused some, in bytes. With nothing left
/// nobody could even report the refusal.
const LEFT_TO_OTHERS: usize = 8 << 20;
/// Bytes that the context's own record takes at the very bottom of the host area.
const RECORD: usize = 96;
/// Stacks whose pages a thread keeps for reuse.
const HOT_STACKS: usize = 256;
/// Released stacks beyond the hot ones are trimmed in batches of this many.
const TRIM_BATCH: usize = 64;

static STACK_SIZE: AtomicUsize = AtomicUsize::new(DEFAULT_STACK_SIZE);
static HOST_AREA: AtomicUsize = AtomicUsize::new(0);
static NOTICE_GIVEN: AtomicBool = AtomicBool::new(false);
/// Whether the size in force is less than the one that was asked for: larger stacks that come back then serve as well.
static IS_SHRUNK: AtomicBool = AtomicBool::new(false);
static SLABS: Mutex<Slabs> = Mutex::new(Slabs { open: None, cold: Vec::new() });

/// The system refused memory for a stack; the text names the limit that is likely to blame.
#[derive(Debug, Clone)]
pub struct StackError {
    message: String,
}

impl fmt::Display for StackError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for StackError {}

/// Sets the size in bytes of the stacks that are made from now on, guard included; rounded up to whole pages.
///
/// # Errors
///
/// A size below [`MINIMUM_STACK_SIZE`] or above [`MAXIMUM_STACK_SIZE`] is refused, naming the value and the limit.
pub fn set_stack_size(bytes: usize) -> Result<(), StackError> {
    if !(MINIMUM_STACK_SIZE..=MAXIMUM_STACK_SIZE).contains(&bytes) {
        return Err(StackError {
            message: format!("stack size {bytes} is not between {MINIMUM_STACK_SIZE} and {MAXIMUM_STACK_SIZE} bytes"),
        });
    }
    STACK_SIZE.store(bytes.next_multiple_of(PAGE), Ordering::Relaxed);
    IS_SHRUNK.store(false, Ordering::Relaxed);
    Ok(())
}

/// Returns the size in bytes of the stacks that are made now, guard included.
pub fn stack_size() -> usize {
    STACK_SIZE.load(Ordering::Relaxed)
}

/// Reserves `bytes` at the top of every stack made from now on for the host's own use; see [`Stack::host_area`].
pub fn set_host_area(bytes: usize) {
    HOST_AREA.store(bytes.next_multiple_of(16), Ordering::Relaxed);
}

/// One stack. It is a plain descriptor of a slot: dropping it leaks the slot, [`StackPool::release`] recycles it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stack {
    bottom: usize,
    size: usize,
    host_area: usize,
}

impl Stack {
    /// Returns the address one past the slot's last byte.
    pub fn top(&self) -> usize {
        self.bottom + self.size
    }

    /// Returns the slot's lowest address, where the guard begins.
    pub fn bottom(&self) -> usize {
        self.bottom
    }

    /// Returns the bytes at the top of the slot that were reserved for the host: first address and length.
    pub fn host_area(&self) -> (usize, usize) {
        (self.top() - self.host_area, self.host_area)
    }

    /// Returns the address and capacity of the record that the context keeps beside the stack.
    pub(crate) fn record(&self) -> (usize, usize) {
        (self.top() - self.host_area - RECORD, RECORD)
    }

    /// Returns the bytes that code running on the stack can use.
    pub fn usable(&self) -> usize {
        self.size - guard_size(self.size) - self.host_area - RECORD
    }

    /// Returns the addresses of the guard: touching one of them is a stack overflow.
    pub fn guard(&self) -> std::ops::Range<usize> {
        self.bottom..self.bottom + guard_size(self.size)
    }

    /// Returns the lowest address that code running on the stack can use.
    pub fn limit(&self) -> usize {
        self.guard().end
    }
}

fn guard_size(stack_size: usize) -> usize {
    // An eighth of the slot, so that small stacks stay usable; 1 MiB at the default size.
    (stack_size / 8).clamp(PAGE, 1 << 20).next_multiple_of(PAGE)
}

/// The stacks that one thread keeps: hot ones first, whose pages are still there.
#[derive(Debug, Default)]
pub struct StackPool {
    hot: Vec<Stack>,
    to_trim: Vec<Stack>,
    /// Whether the system has refused memory since a stack was released last.
    is_refused: bool,
    /// Put aside for the one context that everybody else depends on, a hub's loop: see [`StackPool::reserve`].
    reserve: Option<Stack>,
    has_reserved: bool,
}

impl StackPool {
    /// Creates an empty pool; it takes no memory until the first stack is released to it.
    pub const fn new() -> Self {
        Self { hot: Vec::new(), to_trim: Vec::new(), is_refused: false, reserve: None, has_reserved: false }
    }

    /// Hands out a stack: a hot one if there is one, else one of the process's slabs.
    ///
    /// # Errors
    ///
    /// [`StackError`] when the system refuses address space even for the smallest stacks.
    #[inline]
    pub fn allocate(&mut self) -> Result<Stack, StackError> {
        while let Some(stack) = self.hot.pop() {
            if serves(&stack) {
                return Ok(stack);
            }
            self.to_trim.push(stack);
        }
        self.allocate_cold()
    }

    /// Sees to it that the next [`StackPool::allocate`] finds a stack at hand.
    ///
    /// Called on the thread's own stack: a greenlet that starts another as it parks then has no need of the system, whose
    /// frames would take a second page of its stack for good.
    #[inline]
    pub fn keep_ready(&mut self) {
        if self.hot.is_empty() && !self.is_refused {
            self.make_ready();
        }
    }

    #[cold]
    fn make_ready(&mut self) {
        match self.allocate_cold() {
            Ok(stack) => self.hot.push(stack),
            // Whoever needs it is told.
            Err(_) => self.is_refused = true,
        }
    }

    /// Puts a stack aside, once, lest all others take what the hub's loop needs before it first runs. It is not touched.
    ///
    /// # Errors
    ///
    /// As [`StackPool::allocate`].
    pub fn reserve(&mut self) -> Result<(), StackError> {
        if !self.has_reserved {
            self.reserve = Some(self.allocate_from_slabs()?);
            self.has_reserved = true;
        }
        Ok(())
    }

    /// Sees to it that the next [`StackPool::allocate`] returns what was put aside. Nothing is put aside afterwards.
    pub fn yield_reserve(&mut self) {
        self.has_reserved = true;
        self.hot.extend(self.reserve.take());
    }

    #[cold]
    fn allocate_cold(&mut self) -> Result<Stack, StackError> {
        self.reserve()?;
        self.allocate_from_slabs()
    }

    fn allocate_from_slabs(&mut self) -> Result<Stack, StackError> {
        let refusal = match SLABS.lock().expect("the slab allocator does not panic").allocate() {
            Ok(stack) => return Ok(stack),
            Err(refusal) => refusal,
        };
        match self.to_trim.iter().rposition(serves) {
            Some(position) => Ok(self.to_trim.swap_remove(position)),
            None => Err(refusal),
        }
    }

    /// Takes a stack back for reuse. Its content is garbage from now on.
    #[inline]
    pub fn release(&mut self, stack: Stack) {
        self.is_refused = false;
        if self.hot.len() < HOT_STACKS {
            self.hot.push(stack);
        } else {
            self.to_trim.push(stack);
            if self.to_trim.len() >= TRIM_BATCH {
                self.trim();
            }
        }
    }

    /// Gives the pages of surplus stacks back to the system and their slots to the process.
    #[cold]
    fn trim(&mut self) {
        self.to_trim.sort_unstable_by_key(|stack| stack.bottom);
        let mut runs = self.to_trim.iter().map(|stack| stack.bottom..stack.top()).peekable();
        while let Some(mut run) = runs.next() {
            while runs.peek().is_some_and(|next| next.start == run.end) {
                run.end = runs.next().expect("peeked").end;
            }
            memory::discard(run);
        }
        SLABS.lock().expect("the slab allocator does not panic").cold.append(&mut self.to_trim);
    }
}

impl Drop for StackPool {
    fn drop(&mut self) {
        self.to_trim.append(&mut self.hot);
        self.to_trim.extend(self.reserve.take());
        self.trim();
    }
}

/// Returns whether a stack that came back is of the size that is asked for now.
#[inline]
fn serves(stack: &Stack) -> bool {
    let size = STACK_SIZE.load(Ordering::Relaxed);
    (stack.size == size || stack.size > size && IS_SHRUNK.load(Ordering::Relaxed))
        && stack.host_area == HOST_AREA.load(Ordering::Relaxed)
}

/// The process's slabs: the one that slots are cut from, and slots that came back.
struct Slabs {
    open: Option<Slab>,
    cold: Vec<Stack>,
}

struct Slab {
    next: usize,
    end: usize,
}

impl Slabs {
    fn allocate(&mut self) -> Result<Stack, StackError> {
        if let Some(position) = self.cold.iter().rposition(serves) {
            return Ok(self.cold.swap_remove(position));
        }
        loop {
            let size = stack_size();
            if let Some(slab) = &mut self.open
                && slab.end - slab.next >= size
            {
                let stack = Stack { bottom: slab.next, size, host_area: HOST_AREA.load(Ordering::Relaxed) };
                memory::install_guard(stack.guard()).map_err(|error| StackError {
                    message: format!(
                        "no guard for a greenlet's stack: {error}; kernels before 6.13 need two mappings a stack, and \
                         vm.max_map_count limits these: raise it or run fewer greenlets"
                    ),
                })?;
                slab.next += size;
                return Ok(stack);
            }
            self.open = Some(Slab::map(size)?);
        }
    }
}

impl Slab {
    /// Maps a slab: 1 GiB if the system grants it, less if it does not, smaller stacks as the last resort.
    fn map(stack_size: usize) -> Result<Slab, StackError> {
        let mut size = SLAB_SIZE;
        let mut left_to_others = 0;
        loop {
            let granted = memory::reserve_and_leave(size + 2 * (1 << 20), left_to_others);
            left_to_others = LEFT_TO_OTHERS;
            match granted {
                Ok(start) => {
                    // An odd number of MiB, for the sharing of page-table pages that the module describes.
                    let first = start.next_multiple_of(2 << 20) + (1 << 20);
                    let end = start + size + 2 * (1 << 20);
                    return Ok(Slab { next: first.min(end), end });
                }
                Err(_) if size / 4 >= stack_size + (1 << 20) => size /= 4,
                Err(error) if stack_size > SHRUNK_STACK_SIZE => {
                    let smaller = (stack_size / 4).max(SHRUNK_STACK_SIZE);
                    if !NOTICE_GIVEN.swap(true, Ordering::Relaxed) {
                        eprintln!(
                            "greenrust: the system refuses {stack_size} bytes of address space for a stack ({error}; {}); \
                             stacks shrink to {smaller} bytes",
                            memory::likely_limit()
                        );
                    }
                    STACK_SIZE.store(smaller, Ordering::Relaxed);
                    IS_SHRUNK.store(true, Ordering::Relaxed);
                    return Slab::map(smaller);
                }
                Err(error) => {
                    return Err(StackError {
                        message: format!(
                            "no memory for another greenlet's stack of {stack_size} bytes: {error} ({})",
                            memory::likely_limit()
                        ),
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pool of stacks whose size no test beside this one changes: the process's size is set by the first greenlet of
    /// any test, to what is set here.
    fn pool() -> StackPool {
        crate::greenlet::Builder::new().install().unwrap();
        StackPool::new()
    }

    #[test]
    fn stacks_do_not_overlap_and_are_reused_hot() {
        let mut pool = pool();
        let one = pool.allocate().unwrap();
        let two = pool.allocate().unwrap();
        assert!(one.top() <= two.guard().start || two.top() <= one.guard().start);
        pool.release(one);
        assert_eq!(pool.allocate().unwrap(), one);
        pool.release(one);
        pool.release(two);
    }

    #[test]
    fn one_stack_is_kept_ready_and_no_more() {
        let mut pool = pool();
        pool.keep_ready();
        pool.keep_ready();
        assert_eq!(pool.hot.len(), 1);
        let ready = pool.hot[0];
        assert_eq!(pool.allocate().unwrap(), ready);
        assert!(pool.hot.is_empty());
        pool.is_refused = true;
        pool.keep_ready();
        assert!(pool.hot.is_empty(), "a system that has refused is not asked at each switch");
        pool.release(ready);
        assert!(!pool.is_refused);
    }

    #[test]
    fn a_size_out_of_range_is_refused_with_value_and_limits() {
        let message = set_stack_size(1).unwrap_err().to_string();
        assert!(message.contains('1') && message.contains("65536"), "{message}");
        assert!(set_stack_size(MAXIMUM_STACK_SIZE + 1).is_err());
    }

    #[test]
    fn the_top_of_a_stack_shares_a_page_table_with_the_next_guard() {
        let slab = Slab::map(DEFAULT_STACK_SIZE).unwrap();
        assert_eq!((slab.next + DEFAULT_STACK_SIZE) % (2 << 20), 1 << 20);
    }

    #[test]
    fn surplus_stacks_lose_their_pages() {
        let mut pool = pool();
        let stacks: Vec<_> = (0..HOT_STACKS + TRIM_BATCH).map(|_| pool.allocate().unwrap()).collect();
        for stack in stacks {
            pool.release(stack);
        }
        assert_eq!(pool.hot.len(), HOT_STACKS);
        assert!(pool.to_trim.is_empty());
    }
}
