#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    usmp_testkit::fuzzing::frames(bytes);
});
