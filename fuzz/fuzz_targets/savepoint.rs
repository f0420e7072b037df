//! A page of a savepoint.
//!
//! Nothing panics; what decodes encodes to the same bytes and has a ledger that adds up; a bit that changed is noticed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use promrelay::savepoint::{PAGE_LEN, Page};
use promrelay_fuzz::{Input, flipped, mend_page};

/// Where the ledger's sums are, `accepted` first; then those of the refused, by reason.
const SUMS: usize = 104;
const REFUSED: usize = 120;
const REFUSED_BY: usize = 160;
const NAME: usize = 226;

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let (bit, name_len) = (input.bit(), input.take::<1>()[0]);
    let raw: [u8; PAGE_LEN] = input.take();
    decodes(&raw, bit);

    // The sums as they come: any numbers.
    let mut mended = raw;
    mended[..8].copy_from_slice(b"PRWSAVE\n");
    mended[8..12].copy_from_slice(&1u32.to_le_bytes());
    mend_page(&mut mended);
    decodes(&mended, bit);

    // Sums that add up, and a name that fits.
    let put =
        |page: &mut [u8; PAGE_LEN], at: usize, number: u64| page[at..at + 8].copy_from_slice(&number.to_le_bytes());
    let small = |page: &[u8; PAGE_LEN], at: usize| u64::from_le_bytes(*page[at..].first_chunk().unwrap()) >> 8;
    let reasons: Vec<u64> = (0..2).map(|reason| small(&raw, REFUSED_BY + 8 * reason)).collect();
    for (reason, number) in reasons.iter().enumerate() {
        put(&mut mended, REFUSED_BY + 8 * reason, *number);
    }
    put(&mut mended, REFUSED, reasons.iter().sum());
    let mut accepted = reasons.iter().sum();
    for at in (SUMS + 8..REFUSED_BY).step_by(8).filter(|at| *at != REFUSED) {
        let number = small(&raw, at);
        put(&mut mended, at, number);
        accepted += number;
    }
    put(&mut mended, SUMS, accepted);
    mended[REFUSED_BY + 16..NAME].fill(0);
    mended[NAME - 2] = name_len;
    mended[NAME..NAME + usize::from(name_len)].iter_mut().for_each(|byte| *byte &= 0x7f);
    mended[NAME + usize::from(name_len)..].fill(0);
    mend_page(&mut mended);
    assert!(decodes(&mended, bit));
    let page = Page::decode(&mended).unwrap();
    assert_eq!(*page.encode(), mended, "other bytes than it was read from");
});

/// Whether it does.
fn decodes(bytes: &[u8; PAGE_LEN], bit: usize) -> bool {
    let Some(page) = Page::decode(bytes) else { return false };
    assert!(page.savepoint.ledger.adds_up());
    assert_eq!(Page::decode(&page.encode()).as_ref(), Some(&page));
    assert_eq!(Page::decode(&flipped(bytes, bit)), None, "a bit changed");
    true
}
