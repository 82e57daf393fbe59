#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _reach = usmp_testkit::fuzzing::server_handover(bytes);
});
