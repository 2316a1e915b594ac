//! SFTP in a fake instance: a tree with nothing in it but `/`, just enough to follow a session from end to end.

use super::World;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use yun_engine::session::{Input, Output, Session, session};
use yun_types::Exit;

/// Answers until the person leaves or has nothing more to ask.
pub(super) fn run(world: &World) -> Session {
    let (mine, mut theirs) = session();
    let clock = world.inner.clock.clone();
    world.inner.tasks.spawn("sftp", |_| async move {
        let mut bytes = BytesMut::new();
        while let Some(input) = theirs.input.recv().await {
            match input {
                Input::Stdin(more) => bytes.extend_from_slice(&more),
                Input::StdinClosed => break,
                Input::Resize(_) | Input::Signal(_) => {}
            }
            while let Some(packet) = next(&mut bytes) {
                if theirs.output.send(Output::Stdout(answer(packet))).await.is_err() {
                    return;
                }
            }
        }
        let exit = Exit { code: 0, signal: None, out_of_memory: false, at: clock.now() };
        // Nobody may be there to hear it.
        let _ = theirs.output.send(Output::Exit(exit)).await;
    });
    mine
}

fn next(bytes: &mut BytesMut) -> Option<Bytes> {
    let length = usize::try_from(u32::from_be_bytes(*bytes.first_chunk::<4>()?)).ok()?;
    if bytes.len() < 4 + length {
        return None;
    }
    bytes.advance(4);
    Some(bytes.split_to(length).freeze())
}

/// `INIT` and `REALPATH` are answered; of everything else there is no such file.
fn answer(packet: Bytes) -> Bytes {
    let mut body = BytesMut::new();
    match (packet.first(), packet.get(1..5)) {
        (Some(1), _) => body.put_slice(&[2, 0, 0, 0, 3]),
        (Some(16), Some(id)) => {
            body.put_u8(104);
            body.put_slice(id);
            body.put_u32(1);
            for _ in 0..2 {
                body.put_u32(1);
                body.put_u8(b'/');
            }
            body.put_u32(0);
        }
        (_, id) => {
            body.put_u8(101);
            body.put_slice(id.unwrap_or(&[0; 4]));
            body.put_u32(2);
            body.put_u32(0);
            body.put_u32(0);
        }
    }
    let mut whole = BytesMut::new();
    whole.put_u32(u32::try_from(body.len()).unwrap_or_default());
    whole.extend_from_slice(&body);
    whole.freeze()
}
