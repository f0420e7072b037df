//! What the log's threads share and wait on: the primitives of the standard library, and tokio's `watch`.
//!
//! With the feature `shuttle` they are those of a concurrency checker. It runs all threads on one, by turns, and chooses who goes on
//! at each use of a primitive; what its choices can bring about is tested in `interleavings`. A program that was built so works
//! under the checker only.
//!
//! ```text
//!              normally                  under the checker
//!  Mutex ...   std                       shuttle's
//!  OnceLock    std                       std, with a choice before each use
//!  watch       tokio                     tokio, with a choice before each use of the sender; its receivers are for others
//!  time-outs   a while                   whenever the checker likes, or never: see `Time`
//! ```

#[cfg(not(feature = "shuttle"))]
pub use std::{
    sync::{Condvar, Mutex, MutexGuard, OnceLock, atomic, mpsc},
    thread,
};
#[cfg(not(feature = "shuttle"))]
pub use tokio::sync::watch;

#[cfg(feature = "shuttle")]
pub use checked::*;

#[cfg(feature = "shuttle")]
#[allow(dead_code, reason = "some of it is for tests, some for what the log may use next")]
mod checked {
    use std::cell::Cell;
    use std::sync::{Arc, LockResult};
    use std::time::Duration;

    use atomic::{AtomicBool, Ordering};
    pub use shuttle::sync::{Mutex, MutexGuard, atomic};
    pub use shuttle::thread;

    /// Whether waiting with a time-out ever ends by the time-out.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Time {
        /// At any moment, sooner or later.
        Passes,
        /// Never: who is not woken waits for ever, and the checker calls it a deadlock.
        StandsStill,
    }

    thread_local! {
        static TIME: Cell<Time> = const { Cell::new(Time::Passes) };
    }

    impl Time {
        /// For all that the checker runs on this thread from now on.
        pub fn set(self) {
            TIME.set(self);
        }
    }

    /// Here the checker may let another thread go on.
    pub fn choice() {
        thread::sleep(Duration::ZERO);
    }

    /// As [`std::sync::OnceLock`].
    #[derive(Debug)]
    pub struct OnceLock<T>(std::sync::OnceLock<T>);

    impl<T> OnceLock<T> {
        pub const fn new() -> OnceLock<T> {
            OnceLock(std::sync::OnceLock::new())
        }

        pub fn get(&self) -> Option<&T> {
            choice();
            self.0.get()
        }

        pub fn set(&self, value: T) -> Result<(), T> {
            choice();
            self.0.set(value)
        }
    }

    /// As [`std::sync::Condvar`]; instead of the result of a wait with a time-out there is `true` if it was the time-out.
    #[derive(Debug, Default)]
    pub struct Condvar(Arc<shuttle::sync::Condvar>);

    impl Condvar {
        pub fn new() -> Condvar {
            Condvar::default()
        }

        pub fn notify_all(&self) {
            self.0.notify_all();
        }

        pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
            self.0.wait(guard)
        }

        pub fn wait_timeout<'a, T>(
            &self,
            guard: MutexGuard<'a, T>,
            _: Duration,
        ) -> LockResult<(MutexGuard<'a, T>, bool)> {
            let timer = Timer::start(&self.0);
            let guard = self.0.wait(guard).expect("no holder of this lock panics");
            Ok((guard, timer.has_rung()))
        }

        pub fn wait_timeout_while<'a, T>(
            &self,
            mut guard: MutexGuard<'a, T>,
            _: Duration,
            mut condition: impl FnMut(&mut T) -> bool,
        ) -> LockResult<(MutexGuard<'a, T>, bool)> {
            let timer = Timer::start(&self.0);
            while condition(&mut guard) {
                if timer.has_rung() {
                    return Ok((guard, true));
                }
                guard = self.0.wait(guard).expect("no holder of this lock panics");
            }
            Ok((guard, false))
        }
    }

    /// A thread that wakes those who wait, at a time that the checker chooses: until the one that it is for has noticed.
    struct Timer(Arc<Bell>);

    #[derive(Default)]
    struct Bell {
        has_rung: AtomicBool,
        is_off: AtomicBool,
    }

    impl Timer {
        fn start(condvar: &Arc<shuttle::sync::Condvar>) -> Timer {
            let bell = Arc::new(Bell::default());
            if TIME.get() == Time::Passes {
                let (bell, condvar) = (bell.clone(), condvar.clone());
                thread::spawn(move || {
                    while !bell.is_off.load(Ordering::SeqCst) {
                        bell.has_rung.store(true, Ordering::SeqCst);
                        condvar.notify_all();
                        thread::yield_now();
                    }
                });
            }
            Timer(bell)
        }

        fn has_rung(&self) -> bool {
            self.0.has_rung.load(Ordering::SeqCst)
        }
    }

    impl Drop for Timer {
        fn drop(&mut self) {
            self.0.is_off.store(true, Ordering::SeqCst);
        }
    }

    /// As [`std::sync::mpsc`].
    pub mod mpsc {
        use std::time::Duration;

        pub use shuttle::sync::mpsc::{RecvError, RecvTimeoutError, SendError, TryRecvError};

        use super::{TIME, Time, thread};

        pub struct Sender<T>(shuttle::sync::mpsc::Sender<T>);

        #[derive(Debug)]
        pub struct Receiver<T>(shuttle::sync::mpsc::Receiver<T>);

        pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
            let (sender, receiver) = shuttle::sync::mpsc::channel();
            (Sender(sender), Receiver(receiver))
        }

        impl<T> Sender<T> {
            pub fn send(&self, value: T) -> Result<(), SendError<T>> {
                self.0.send(value)
            }
        }

        impl<T> Clone for Sender<T> {
            fn clone(&self) -> Sender<T> {
                Sender(self.0.clone())
            }
        }

        // Also of what cannot be shown, as std's.
        impl<T> std::fmt::Debug for Sender<T> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("Sender { .. }")
            }
        }

        impl<T> Receiver<T> {
            pub fn recv(&self) -> Result<T, RecvError> {
                self.0.recv()
            }

            pub fn try_recv(&self) -> Result<T, TryRecvError> {
                self.0.try_recv()
            }

            /// How much others do before the time-out is the checker's choice.
            pub fn recv_timeout(&self, _: Duration) -> Result<T, RecvTimeoutError> {
                if TIME.get() == Time::StandsStill {
                    return self.recv().map_err(|_| RecvTimeoutError::Disconnected);
                }
                thread::yield_now();
                self.try_recv().map_err(|error| match error {
                    TryRecvError::Empty => RecvTimeoutError::Timeout,
                    TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
                })
            }
        }
    }

    /// As [`tokio::sync::watch`].
    pub mod watch {
        pub use tokio::sync::watch::{Receiver, Ref};

        use super::{Mutex, choice};

        #[derive(Debug)]
        pub struct Sender<T> {
            sender: tokio::sync::watch::Sender<T>,
            /// Tokio's own lock must not be held when the checker changes to another thread: that one would wait for it in earnest.
            one_at_a_time: Mutex<()>,
        }

        impl<T: Clone> Sender<T> {
            pub fn new(value: T) -> Sender<T> {
                Sender { sender: tokio::sync::watch::Sender::new(value), one_at_a_time: Mutex::new(()) }
            }

            pub fn borrow(&self) -> Ref<'_, T> {
                choice();
                self.sender.borrow()
            }

            pub fn subscribe(&self) -> Receiver<T> {
                self.sender.subscribe()
            }

            pub fn send_if_modified(&self, modify: impl FnOnce(&mut T) -> bool) -> bool {
                let _one = self.one_at_a_time.lock().expect("no holder of this lock panics");
                let mut value = self.sender.borrow().clone();
                let is_modified = modify(&mut value);
                if is_modified {
                    self.sender.send_replace(value);
                }
                is_modified
            }

            pub fn send_modify(&self, modify: impl FnOnce(&mut T)) {
                self.send_if_modified(|value| {
                    modify(value);
                    true
                });
            }

            pub fn send_replace(&self, value: T) {
                self.send_modify(|now| *now = value);
            }
        }
    }
}
