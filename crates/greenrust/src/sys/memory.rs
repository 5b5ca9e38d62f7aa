//! Address space for stacks: reservation, guards, and giving pages back. Linux.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

/// `MADV_GUARD_INSTALL` of Linux 6.13: a guard without a mapping of its own.
const MADV_GUARD_INSTALL: libc::c_int = 102;

static LIGHT_GUARDS: AtomicBool = AtomicBool::new(true);

/// Reserves `size` bytes of readable and writable address space and returns its first address.
///
/// # Errors
///
/// The kernel's: ENOMEM under RLIMIT_AS, `vm.overcommit_memory=2` or `vm.max_map_count`.
pub fn reserve(size: usize) -> io::Result<usize> {
    // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches nothing that exists.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            size,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // A huge page would make every stack cost 2 MiB. Refusal (a kernel without huge pages) is harmless.
    // SAFETY: advice on the mapping that was just made.
    unsafe { libc::madvise(address, size, libc::MADV_NOHUGEPAGE) };
    Ok(address as usize)
}

/// Reserves `size` bytes as [`reserve`] does, if the system would grant `rest` more.
///
/// # Errors
///
/// As [`reserve`].
pub fn reserve_and_leave(size: usize, rest: usize) -> io::Result<usize> {
    let address = reserve(size + rest)?;
    if rest > 0 {
        // SAFETY: the end of the mapping that was just made, which nobody uses yet. A failure leaves it reserved.
        unsafe { libc::munmap((address + size) as *mut libc::c_void, rest) };
    }
    Ok(address)
}

/// Makes every access to `range` a SIGSEGV.
///
/// # Errors
///
/// ENOMEM when the fallback for older kernels runs into `vm.max_map_count`.
pub fn install_guard(range: Range<usize>) -> io::Result<()> {
    let address = range.start as *mut libc::c_void;
    if LIGHT_GUARDS.load(Ordering::Relaxed) {
        // SAFETY: the range is the guard of a slot that nobody uses yet.
        if unsafe { libc::madvise(address, range.len(), MADV_GUARD_INSTALL) } == 0 {
            return Ok(());
        }
        LIGHT_GUARDS.store(false, Ordering::Relaxed);
    }
    // SAFETY: as above.
    if unsafe { libc::mprotect(address, range.len(), libc::PROT_NONE) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Gives the pages of `range` back to the system; guards within it stay.
pub fn discard(range: Range<usize>) {
    // SAFETY: the range consists of released stacks, whose content nobody reads again. A failure leaves the pages
    // where they are, which is correct.
    unsafe { libc::madvise(range.start as *mut libc::c_void, range.len(), libc::MADV_DONTNEED) };
}

/// Says which limit of this process or system is likely to have refused memory.
pub fn likely_limit() -> String {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a local of the right type.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_AS, &mut limit) } == 0;
    if known && limit.rlim_cur != libc::RLIM_INFINITY {
        return format!("RLIMIT_AS is {} bytes", limit.rlim_cur);
    }
    match std::fs::read_to_string("/proc/sys/vm/overcommit_memory").as_deref().map(str::trim) {
        Ok("2") => "vm.overcommit_memory is 2".to_owned(),
        _ => "see vm.max_map_count, and the memory limit of the control group".to_owned(),
    }
}
