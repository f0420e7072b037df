//! A page of a savepoint.
//!
//! Nothing panics; what decodes encodes to the same bytes and has a ledger that adds up; a bit that changed is noticed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use promrelay::savepoint::{Cuts, PAGE_LEN, Page, Ranges, Reason};
use promrelay_fuzz::{Input, flipped, mend_page};

/// Where the ledger's sums are, `accepted` first; then those of the refused, by reason.
const SUMS: usize = 104;
const REFUSED: usize = 120;
const REFUSED_BY: usize = 160;
const NAME: usize = 226;
const NAME_LEN_MAX: usize = 100;
/// Behind the name, in the order of the page.
const RESERVATION: usize = 328;
const FLAGS: usize = 336;
const LEARNED: usize = 348;
const SPARE: usize = 376;
const RANGES: usize = 512;
const CUTS: usize = 2560;

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
    let reasons: Vec<u64> = (0..Reason::ALL.len()).map(|reason| small(&raw, REFUSED_BY + 8 * reason)).collect();
    for (reason, number) in reasons.iter().enumerate() {
        put(&mut mended, REFUSED_BY + 8 * reason, *number);
    }
    put(&mut mended, REFUSED, reasons.iter().sum());
    let mut accepted: u64 = reasons.iter().sum();
    for at in (SUMS + 8..REFUSED_BY).step_by(8).filter(|at| *at != REFUSED) {
        let number = small(&raw, at) + LEAST;
        put(&mut mended, at, number);
        accepted += number;
    }
    put(&mut mended, SUMS, accepted);
    let name_end = NAME + usize::from(name_len) % (NAME_LEN_MAX + 1);
    mended[REFUSED_BY + 8 * reasons.len()..NAME].fill(0);
    mended[NAME - 2] = (name_end - NAME) as u8;
    mended[NAME..name_end].iter_mut().for_each(|byte| *byte &= 0x7f);
    mended[name_end..].fill(0);
    behind_the_name(&raw, &mut mended);
    mend_page(&mut mended);
    assert!(decodes(&mended, bit));
    let page = Page::decode(&mended).unwrap();
    assert_eq!(*page.encode(), mended, "other bytes than it was read from");
});

/// Samples that are in each sum at least: no fewer than in all ranges.
const LEAST: u64 = 1 << 20;

/// Ranges and cuts that are in order, and what else there is, where the fuzzer wants it.
fn behind_the_name(raw: &[u8; PAGE_LEN], page: &mut [u8; PAGE_LEN]) {
    let put = |page: &mut [u8; PAGE_LEN], at: usize, numbers: &[u64]| {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        page[at..at + bytes.len()].copy_from_slice(&bytes);
    };
    page[RESERVATION..SPARE].copy_from_slice(&raw[RESERVATION..SPARE]);
    let ranges = usize::from(raw[344]) % (Ranges::MAX + 1);
    let cuts = usize::from(raw[346]) % (Cuts::MAX + 1);
    page[FLAGS..FLAGS + 4].copy_from_slice(&[raw[FLAGS] & 3, 0, 0, 0]);
    let doubts = u32::from_le_bytes(*raw[340..].first_chunk().unwrap()) & ((1u64 << cuts) - 1) as u32;
    page[340..344].copy_from_slice(&doubts.to_le_bytes());
    page[344..348].copy_from_slice(&[ranges as u8, 0, cuts as u8, 0]);
    // What is not known has no value.
    let mut learned = raw[LEARNED] & 15;
    if learned & 2 == 0 {
        learned &= !4;
    }
    page[LEARNED..LEARNED + 4].copy_from_slice(&[learned, 0, 0, 0]);
    if learned & 8 == 0 {
        page[360..364].fill(0);
    }
    page[364..368].fill(0);
    let settled = u64::from_le_bytes(*raw[72..].first_chunk().unwrap()) >> 8;
    put(page, 72, &[settled]);
    let mut position = settled;
    for number in 0..ranges {
        let [gap, len, samples] = [0, 1, 2].map(|n| u64::from(raw[RANGES + 32 * number + n]));
        let (from, total) = (position + 1 + gap, u64::from(raw[RANGES + 32 * number + 3]));
        position = from + 1 + len;
        put(page, RANGES + 32 * number, &[from, total, position, total + samples]);
    }
    position = settled;
    for number in 0..cuts {
        let [gap, len] = [0, 1].map(|n| u64::from(raw[CUTS + 16 * number + n]));
        let first = position + 1 + gap;
        position = first + len;
        put(page, CUTS + 16 * number, &[first, position]);
    }
}

/// Whether it does.
fn decodes(bytes: &[u8; PAGE_LEN], bit: usize) -> bool {
    let Some(page) = Page::decode(bytes) else { return false };
    assert!(page.savepoint.ledger.adds_up());
    assert_eq!(Page::decode(&page.encode()).as_ref(), Some(&page));
    assert_eq!(Page::decode(&flipped(bytes, bit)), None, "a bit changed");
    true
}
