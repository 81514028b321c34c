# A back end of ours that runs in here, and a driver of ours that looks at it.
loader="/host/$(ls /host | grep '^ld-linux')"

# serve PROGRAM OPTIONS...: starts the back end.
serve() {
    program=$1
    shift
    rm -f /tmp/inner.sock
    $loader --library-path /host "/host/$program" --socket-path /tmp/inner.sock "$@" >/tmp/inner.log 2>&1 &
    inner=$!
    check "serve-$2" wait_for /tmp/inner.sock
}

ends() {
    kill $inner
    wait $inner
    [ -s /tmp/inner.log ] && value log "$(tail -n 2 /tmp/inner.log | tr '\n' ' ')"
}

# words NAME EXPECTED DRIVER WORDS...: what the driver says, in a line.
words() {
    name=$1
    expected=$2
    driver=$3
    shift 3
    same "$name" "$expected" "$($loader --library-path /host "/host/$driver" /tmp/inner.sock "$@" 2>&1 | tr '\n' ' ')"
}

# listen WORDS...: our driver of input devices, which says to /tmp/said what comes, and has begun.
listen() {
    rm -f /tmp/said
    $loader --library-path /host /host/input /tmp/inner.sock "$@" >/tmp/said 2>&1 &
    driver=$!
    says /tmp/said listening
}
