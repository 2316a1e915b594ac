//! Prints the OpenAPI document of the cloud API.
fn main() {
    print!("{}", yun_api::cloud::openapi());
}
