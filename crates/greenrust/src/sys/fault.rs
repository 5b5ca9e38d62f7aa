//! A last message for a stack overflow: which greenlet it was, written before the process dies of SIGSEGV.
//!
//! The handler runs on an alternate stack of its thread, reads only plain memory, calls only `write`, `sigaction` and
//! `raise`, and then hands the signal to whoever handled it before (faulthandler, a core dump).

use std::cell::{Cell, UnsafeCell};
use std::mem::MaybeUninit;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Writes a name for the thread's current greenlet into the buffer and returns its length, if `address` lies in the
/// guard of its stack. Must be async-signal-safe.
pub type Describe = fn(address: usize, buffer: &mut [u8]) -> Option<usize>;

const ALTERNATE_STACK: usize = 64 << 10;

static INSTALL: Once = Once::new();
static DESCRIBE: AtomicUsize = AtomicUsize::new(0);
struct Previous(UnsafeCell<MaybeUninit<libc::sigaction>>);
// SAFETY: written once under INSTALL before the handler that reads it is installed.
unsafe impl Sync for Previous {}
static PREVIOUS: Previous = Previous(UnsafeCell::new(MaybeUninit::uninit()));

thread_local! {
    static ALTERNATE: Cell<bool> = const { Cell::new(false) };
}

/// Installs the handler for the process (once) and an alternate stack for the calling thread (once a thread).
pub fn watch_thread(describe: Describe) {
    DESCRIBE.store(describe as usize, Ordering::Release);
    if !ALTERNATE.replace(true) {
        give_alternate_stack();
    }
    INSTALL.call_once(|| {
        // SAFETY: all fields of a zeroed sigaction are valid; the handler has the SA_SIGINFO signature.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_fault as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&mut action.sa_mask);
            libc::sigaction(libc::SIGSEGV, &action, (*PREVIOUS.0.get()).as_mut_ptr());
        }
    });
}

fn give_alternate_stack() {
    // SAFETY: `current` is a valid place for the answer; the memory given is leaked on purpose, since the kernel may
    // use it until the thread is gone.
    unsafe {
        let mut current: libc::stack_t = std::mem::zeroed();
        libc::sigaltstack(std::ptr::null(), &mut current);
        if current.ss_flags & libc::SS_DISABLE == 0 {
            return;
        }
        let Ok(memory) = super::memory::reserve(ALTERNATE_STACK) else {
            return;
        };
        let stack = libc::stack_t { ss_sp: memory as *mut libc::c_void, ss_flags: 0, ss_size: ALTERNATE_STACK };
        libc::sigaltstack(&stack, std::ptr::null_mut());
    }
}

extern "C" fn on_fault(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    let describe = DESCRIBE.load(Ordering::Acquire);
    // SAFETY: the kernel passes a valid siginfo; `describe` was stored from a function of this type; PREVIOUS was
    // written before this handler was installed.
    unsafe {
        if describe != 0 {
            let describe: Describe = std::mem::transmute::<usize, Describe>(describe);
            let mut name = [0u8; 200];
            if let Some(length) = describe((*info).si_addr() as usize, &mut name) {
                let parts: [&[u8]; 3] = [
                    b"\ngreenrust: stack overflow in ",
                    &name[..length.min(name.len())],
                    b": it ran into the guard of its stack. Raise GEVENT_STACK_SIZE, or recurse less.\n",
                ];
                for part in parts {
                    libc::write(2, part.as_ptr().cast(), part.len());
                }
            }
        }
        // Returning runs the faulting instruction again, now under the previous handler.
        libc::sigaction(signal, (*PREVIOUS.0.get()).as_ptr(), std::ptr::null_mut());
        if (*info).si_code <= 0 {
            // Sent by a process: no instruction repeats it. It comes when this handler returns.
            libc::raise(signal);
        }
    }
}
