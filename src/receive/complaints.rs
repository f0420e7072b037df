//! Which sender's bad data was told of when: a line when it begins and then one now and then, not one for each request for ever.
//!
//! ```text
//!  bad request of a sender ---> not told within the last 10 minutes ---> a line, with what came since the last one
//!                          '--> told ---> counted
//! ```

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

/// As often as a person wants to be reminded.
const PAUSE: Duration = Duration::from_secs(600);
/// Who comes when so many were told of lately is not told of: the memory is bounded, and so is the log.
const SENDERS_MAX: usize = 1000;

/// See the module.
#[derive(Debug, Default)]
pub struct Complaints {
    told: Mutex<HashMap<Option<IpAddr>, Told>>,
}

#[derive(Debug)]
struct Told {
    at: Instant,
    requests_since: u64,
}

impl Complaints {
    /// A bad request came: whether to tell of it, and then how many came from this sender since the last line.
    pub fn is_due(&self, sender: Option<IpAddr>, now: Instant) -> Option<u64> {
        let mut told = self.told.lock().expect("no holder of this lock panics");
        if let Some(known) = told.get_mut(&sender) {
            known.requests_since += 1;
            if now < known.at + PAUSE {
                return None;
            }
            known.at = now;
            return Some(std::mem::take(&mut known.requests_since));
        }
        if told.len() >= SENDERS_MAX {
            told.retain(|_, other| now < other.at + PAUSE);
        }
        if told.len() >= SENDERS_MAX {
            return None;
        }
        told.insert(sender, Told { at: now, requests_since: 0 });
        Some(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sender_is_told_of_at_once_and_then_now_and_then_with_what_came_meanwhile() {
        let (complaints, start) = (Complaints::default(), Instant::now());
        let (one, two) = (Some([127, 0, 0, 1].into()), Some([127, 0, 0, 2].into()));
        let due = |sender, seconds| complaints.is_due(sender, start + Duration::from_secs(seconds));
        assert_eq!(due(one, 0), Some(1));
        assert_eq!((due(one, 1), due(one, 599)), (None, None));
        assert_eq!((due(two, 2), due(None, 2)), (Some(1), Some(1)));
        assert_eq!(due(one, 600), Some(3));
        assert_eq!((due(one, 601), due(one, 1200)), (None, Some(2)));
    }

    #[test]
    fn a_crowd_of_senders_takes_no_more_memory_and_the_old_make_room() {
        let (complaints, start) = (Complaints::default(), Instant::now());
        let sender = |n: u32| Some(IpAddr::from(n.to_be_bytes()));
        let due = |n, at| (n..n + 2000).filter(|n| complaints.is_due(sender(*n), at).is_some()).count();
        assert_eq!(due(0, start), SENDERS_MAX);
        assert_eq!(due(5000, start), 0);
        assert_eq!(due(5000, start + PAUSE), SENDERS_MAX);
        assert_eq!(complaints.told.lock().unwrap().len(), SENDERS_MAX);
    }
}
