//! The clients that apps have, unmodified.

use hansa_runtime::models;
use hansa_runtime::wheel::Progress;
use hansa_tests::mesh::{Mesh, Spec};
use hansa_tests::python;

#[test]
fn tritonclient_works_against_a_node_that_does_not_hold_the_model() {
    let model = models::magika(Progress::Stderr).expect("magika can be fetched").join("model.onnx");
    let mesh = Mesh::with(&[
        Spec::new("berlin", "DE", "DE").with("magika", &model),
        Spec::new("austin", "US", "US"),
    ]);
    let url = mesh.node("austin").url();
    let address = url.trim_start_matches("http://");
    // The bar is 10,000; the suite's time allows a tenth, and more by this variable.
    let requests = std::env::var("HANSA_TRITON_REQUESTS").unwrap_or_else(|_| "1000".into());
    let said =
        python::script("triton_http.py", &[address, &model.display().to_string(), &requests]);
    eprintln!("{said}");
}
