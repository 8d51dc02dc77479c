//! Raw dereferences that no check sees: they run into a guard page, and the signal handler ends their fiber.
//!
//! The handler notes what happened, then sets the interrupted registers so that the fiber returns at once to the loop
//! that runs it (corosensei's trap handler). A signal from anywhere else goes to whoever handled it before.

use crate::block::Block;
use crate::fault::{Access, Fault, Near, Source};
use crate::stack::{FiberStack, STACK_BYTES};

impl Block {
    /// The fault of a thread that a signal ended.
    pub(crate) fn trapped(&self, thread: usize) -> Fault {
        let Some(trap) = self.trap.take() else {
            return Fault::Undefined { place: self.place_at(thread, Source::Unknown) };
        };
        let image = crate::access::Image::of(trap.code_address);
        let source = image.map_or(Source::Unknown, |image| Source::Code((trap.code_address - image.base) as u64));
        let place = self.place_at(thread, source);
        if [libc::SIGILL, libc::SIGFPE, libc::SIGTRAP].contains(&trap.signal) {
            return Fault::Undefined { place };
        }
        if FiberStack::is_below(self.fibers[thread].stack.get(), trap.address) {
            return Fault::StackOverflow { place, bytes: STACK_BYTES };
        }
        let access = if trap.stores { Access::Store } else { Access::Load };
        if let Some(region) = self.region_of(trap.address, 1) {
            return Fault::ReadOnly { place, access, near: crate::access::near(region, trap.address) };
        }
        let near = match trap.address {
            0 => Near::Nothing,
            address => self.near(address),
        };
        Fault::OutOfBounds { place, access, address: trap.address as u64, bytes: None, near }
    }
}

pub(crate) use handler::{AltStack, install};

#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod handler {
    use std::io;
    use std::mem::MaybeUninit;
    use std::ptr;
    use std::sync::OnceLock;

    use crate::block::{BLOCK, Block, End, Trap};

    const SIGNALS: [libc::c_int; 5] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP];

    /// Who handled each of `SIGNALS` before.
    static BEFORE: OnceLock<[libc::sigaction; SIGNALS.len()]> = OnceLock::new();

    /// Installs the handler, once in the life of the process.
    pub(crate) fn install() -> io::Result<()> {
        static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
        let installed = INSTALLED.get_or_init(|| install_all().map_err(|error| error.raw_os_error().unwrap_or(0)));
        installed.map_err(io::Error::from_raw_os_error)
    }

    fn install_all() -> io::Result<()> {
        let mut before = [empty_action(); SIGNALS.len()];
        for (slot, signal) in before.iter_mut().zip(SIGNALS) {
            *slot = replace(signal, None)?;
        }
        // Known before the handler can run, as it passes on what is not its own.
        BEFORE.get_or_init(|| before);
        for signal in SIGNALS {
            let mut ours = empty_action();
            ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            ours.sa_sigaction = on_signal as *const () as usize;
            replace(signal, Some(ours))?;
        }
        Ok(())
    }

    fn empty_action() -> libc::sigaction {
        // SAFETY: sigaction is a C struct of integers and an optional function pointer; all zeros is SIG_DFL, no flags.
        unsafe { MaybeUninit::zeroed().assume_init() }
    }

    /// Sets the action of a signal, if one is given, and returns the one before.
    fn replace(signal: libc::c_int, action: Option<libc::sigaction>) -> io::Result<libc::sigaction> {
        let mut before = empty_action();
        let new = action.as_ref().map_or(ptr::null(), ptr::from_ref);
        // SAFETY: `new` is null or a filled-in action, and `before` is a local; our handler is async-signal-safe.
        let result = unsafe { libc::sigaction(signal, new, &raw mut before) };
        if result == 0 { Ok(before) } else { Err(io::Error::last_os_error()) }
    }

    unsafe extern "C" fn on_signal(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
        let block = BLOCK.get();
        // SAFETY: the kernel passes a valid context, which nothing else refers to during the handler.
        let context = unsafe { &mut *context };
        if !block.is_null() {
            // SAFETY: not null, so `with_block` on this very OS thread holds a reference to it further up the stack.
            let block = unsafe { &*block };
            // SAFETY: the kernel passes a valid siginfo.
            let info = unsafe { &*info };
            // SAFETY: all of `SIGNALS` carry an address.
            let address = unsafe { info.si_addr() } as usize;
            if send_home(block, signal, address, context) {
                return;
            }
        }
        pass_on(signal, info, context);
    }

    /// If the signal came from the block's running fiber, makes that fiber return to the loop over fibers.
    fn send_home(block: &Block, signal: libc::c_int, address: usize, context: &mut libc::ucontext_t) -> bool {
        let Some(handler) = block.fibers.get(block.running.get()).and_then(|fiber| fiber.trap_handler.get()) else {
            return false;
        };
        if !handler.stack_ptr_in_bounds(registers::stack_pointer(context)) {
            return false;
        }
        let (code_address, stores) = (registers::code_address(context), registers::stores(context));
        block.trap.set(Some(Trap { signal, address, code_address, stores }));
        // SAFETY: the stack pointer is in the fiber's stack (checked above), the registers are set below before the
        // handler returns, and what the fiber has written outside its stack (buffers, shared memory, cells) is not used
        // as anything but bytes, or is reset by the next block.
        let home = unsafe { handler.setup_trap_handler(|| End::Trapped) };
        registers::set(context, home);
        true
    }

    /// Hands the signal to the handler before ours or, if there was none, lets it happen again without a handler.
    fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: &mut libc::ucontext_t) {
        let index = SIGNALS.iter().position(|&ours| ours == signal);
        let before = index.and_then(|i| BEFORE.get().map(|all| all[i])).unwrap_or_else(empty_action);
        if before.sa_sigaction == libc::SIG_DFL || before.sa_sigaction == libc::SIG_IGN {
            let _ = replace(signal, Some(empty_action()));
            return;
        }
        type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::ucontext_t);
        // SAFETY: neither SIG_DFL nor SIG_IGN, so it is a handler's address; one without SA_SIGINFO ignores the rest.
        let handler = unsafe { std::mem::transmute::<usize, Handler>(before.sa_sigaction) };
        handler(signal, info, context);
    }

    #[cfg(target_arch = "x86_64")]
    mod registers {
        use corosensei::trap::TrapHandlerRegs;
        use libc::{REG_ERR, REG_RBP, REG_RDI, REG_RIP, REG_RSI, REG_RSP, ucontext_t};

        fn register(context: &ucontext_t, register: libc::c_int) -> usize {
            context.uc_mcontext.gregs[register as usize] as usize
        }
        pub(super) fn stack_pointer(context: &ucontext_t) -> usize {
            register(context, REG_RSP)
        }
        pub(super) fn code_address(context: &ucontext_t) -> usize {
            register(context, REG_RIP)
        }
        /// Bit 1 of a page fault's error code.
        pub(super) fn stores(context: &ucontext_t) -> bool {
            register(context, REG_ERR) & 2 != 0
        }
        pub(super) fn set(context: &mut ucontext_t, to: TrapHandlerRegs) {
            let TrapHandlerRegs { rip, rsp, rbp, rdi, rsi } = to;
            let values = [(REG_RIP, rip), (REG_RSP, rsp), (REG_RBP, rbp), (REG_RDI, rdi), (REG_RSI, rsi)];
            for (register, value) in values {
                context.uc_mcontext.gregs[register as usize] = value as i64;
            }
        }
    }

    #[cfg(target_arch = "aarch64")]
    mod registers {
        use corosensei::trap::TrapHandlerRegs;
        use libc::ucontext_t;

        pub(super) fn stack_pointer(context: &ucontext_t) -> usize {
            context.uc_mcontext.sp as usize
        }
        pub(super) fn code_address(context: &ucontext_t) -> usize {
            context.uc_mcontext.pc as usize
        }
        /// The kernel gives it in an optional record that is not read here.
        pub(super) fn stores(_: &ucontext_t) -> bool {
            false
        }
        pub(super) fn set(context: &mut ucontext_t, to: TrapHandlerRegs) {
            let TrapHandlerRegs { pc, sp, x0, x1, x29, lr } = to;
            let machine = &mut context.uc_mcontext;
            (machine.pc, machine.sp) = (pc, sp);
            for (register, value) in [(0, x0), (1, x1), (29, x29), (30, lr)] {
                machine.regs[register] = value;
            }
        }
    }

    /// A stack for the handler, as a fiber's own may be what overflowed. Rust's threads have one; others get ours.
    pub(crate) struct AltStack {
        _memory: Option<Vec<u8>>,
    }

    impl AltStack {
        const BYTES: usize = 64 << 10;

        pub(crate) fn for_this_thread() -> io::Result<AltStack> {
            let mut now = libc::stack_t { ss_sp: ptr::null_mut(), ss_flags: 0, ss_size: 0 };
            // SAFETY: only asks; `now` is a local.
            unsafe { libc::sigaltstack(ptr::null(), &raw mut now) };
            if now.ss_flags & libc::SS_DISABLE == 0 {
                return Ok(AltStack { _memory: None });
            }
            let mut memory = vec![0; AltStack::BYTES];
            let ours = libc::stack_t { ss_sp: memory.as_mut_ptr().cast(), ss_flags: 0, ss_size: AltStack::BYTES };
            // SAFETY: `ours` is live memory, which the drop below takes out of use before it is freed.
            let result = unsafe { libc::sigaltstack(&raw const ours, ptr::null_mut()) };
            if result == 0 { Ok(AltStack { _memory: Some(memory) }) } else { Err(io::Error::last_os_error()) }
        }
    }

    impl Drop for AltStack {
        fn drop(&mut self) {
            if self._memory.is_some() {
                let none = libc::stack_t { ss_sp: ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
                // SAFETY: takes this thread's alternate stack out of use; no handler is running on it.
                unsafe { libc::sigaltstack(&raw const none, ptr::null_mut()) };
            }
        }
    }
}

/// Elsewhere a raw dereference of a guard page ends the process; the checks of `ptx.cuh` work all the same.
#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
mod handler {
    use std::io;

    pub(crate) fn install() -> io::Result<()> {
        Ok(())
    }

    pub(crate) struct AltStack;

    impl AltStack {
        pub(crate) fn for_this_thread() -> io::Result<AltStack> {
            Ok(AltStack)
        }
    }
}
