//! Tokens: who may do what. Only the hash of a secret is kept; the secret is shown once, to who created the token.

pub mod ops;

use crate::rows::TokenRow;
use yun_store::Row;
use yun_types::Token;

/// The token, without anything of its secret.
pub fn view(row: &Row<TokenRow>) -> Token {
    let mut token = row.value.0.token.clone();
    token.metadata.revision = row.rev.to_string();
    token
}
