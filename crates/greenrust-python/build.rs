//! Compiles the shim of `thread_state` against the headers of the interpreter that the extension is built for.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=src/thread_state/shim.c");
    println!("cargo:rerun-if-env-changed=PYO3_PYTHON");
    pyo3_build_config::use_pyo3_cfgs();
    let config = pyo3_build_config::get();
    let python = config.executable().unwrap_or("python3").to_owned();
    let output = Command::new(&python)
        .args(["-c", "import sysconfig; print(sysconfig.get_path('include'))"])
        .output()
        .unwrap_or_else(|error| panic!("cannot run {python} to find Python.h: {error}"));
    let include = String::from_utf8(output.stdout).expect("a path");
    cc::Build::new().file("src/thread_state/shim.c").include(include.trim()).opt_level(2).compile("greenrust_shim");
}
