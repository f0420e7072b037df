//! Bytes on disk that belong to the log: what is allocated, sealed, kept in quarantine, and deleted but still read by somebody.

use std::sync::Arc;

use super::sync::atomic::{AtomicU64, Ordering};

/// The sum. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct DiskUsage(Arc<AtomicU64>);

impl DiskUsage {
    /// Bytes now.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts bytes until the charge is dropped.
    #[must_use]
    pub fn charge(&self, bytes: u64) -> Charge {
        self.0.fetch_add(bytes, Ordering::Relaxed);
        Charge { usage: self.clone(), bytes: AtomicU64::new(bytes) }
    }
}

/// Somebody's share of the [`DiskUsage`]; given back when dropped.
#[derive(Debug)]
pub struct Charge {
    usage: DiskUsage,
    bytes: AtomicU64,
}

impl Charge {
    /// Bytes that it stands for.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// From now on it stands for so many.
    pub fn change_to(&self, bytes: u64) {
        let before = self.bytes.swap(bytes, Ordering::Relaxed);
        // In one step: nobody must see both. (The sum of all is never less than nothing.)
        self.usage.0.fetch_add(bytes.wrapping_sub(before), Ordering::Relaxed);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.usage.0.fetch_sub(self.bytes(), Ordering::Relaxed);
    }
}
