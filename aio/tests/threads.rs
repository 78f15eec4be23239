//! What the crate's documentation says of threads: every type but those it names is for any of them.

use aio::{
    Acquire, Address, AioError, BottomHalf, BufferPool, ByteSemaphore, BytesGuard, Clock, Closed,
    Config, ContextStats, EventNotifier, Fd, FdHandler, Handle, Hold, InUse, IoBuf, IoThread, Join,
    JoinHandle, ManualClock, PollParams, PoolRequest, RescheduleTo, SendPart, SleepWaker,
    TaskMutex, TaskMutexGuard, TaskQueue, TaskReadGuard, TaskRwLock, TaskWriteGuard, Timer,
    WaitPoint, YieldNow,
};

fn is_for_any<T: Send + Sync>() {}

#[test]
fn what_is_for_any_thread_is_send_and_sync() {
    is_for_any::<(Handle, JoinHandle<u8>, Join<u8>, Closed, WaitPoint)>();
    is_for_any::<(IoThread, Hold, InUse, RescheduleTo<'_>, YieldNow)>();
    is_for_any::<(BottomHalf, FdHandler, EventNotifier, Timer, SleepWaker)>();
    is_for_any::<(Fd, IoBuf, BufferPool, Acquire, SendPart, Address)>();
    is_for_any::<(TaskMutex, TaskRwLock, TaskQueue, ByteSemaphore)>();
    is_for_any::<(
        TaskMutexGuard<'_>,
        TaskReadGuard<'_>,
        TaskWriteGuard<'_>,
        BytesGuard,
    )>();
    is_for_any::<(Clock, ManualClock, PoolRequest<u8>, PollParams)>();
    is_for_any::<(Config, ContextStats, AioError)>();
}
