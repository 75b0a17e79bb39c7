// What users of pgx do, from more goroutines than the proxy has connections.
// Reached by PGHOST, PGPORT, PGUSER, PGPASSWORD, PGSSLROOTCERT, PGSSLMODE. Fails by its exit status.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"sync"
	"time"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgx/v4"
	"github.com/jackc/pgx/v4/pgxpool"
)

const (
	clients = 16
	rounds  = 8
)

func must(err error) {
	if err != nil {
		log.Output(2, err.Error())
		panic(err)
	}
}

func check(condition bool, what string) {
	if !condition {
		must(errors.New(what))
	}
}

func client(ctx context.Context, pool *pgxpool.Pool, number int) {
	session, err := pool.Acquire(ctx)
	must(err)
	defer session.Release()
	for turn := 0; turn < rounds; turn++ {
		var sum int
		must(session.QueryRow(ctx, "SELECT $1::int + $2::int", number, turn).Scan(&sum))
		check(sum == number+turn, "sum")
		tx, err := session.Begin(ctx)
		must(err)
		_, err = tx.Exec(ctx, "INSERT INTO pgx_rows VALUES ($1, $2)", number, turn)
		must(err)
		nested, err := tx.Begin(ctx)
		must(err)
		var failed *pgconn.PgError
		_, err = nested.Exec(ctx, "SELECT 1/$1::int", 0)
		check(errors.As(err, &failed) && failed.Code == "22012", "divided by zero")
		must(nested.Rollback(ctx))
		if turn%2 == 0 {
			must(tx.Commit(ctx))
		} else {
			must(tx.Rollback(ctx))
		}
		batch := &pgx.Batch{}
		for i := 0; i < 10; i++ {
			batch.Queue("SELECT $1::int * 2", i)
		}
		results := session.SendBatch(ctx, batch)
		for i := 0; i < 10; i++ {
			var twice int
			must(results.QueryRow().Scan(&twice))
			check(twice == 2*i, "batch")
		}
		must(results.Close())
		// More texts than statements are kept: the oldest is deallocated.
		for i := 0; i < 6; i++ {
			must(session.QueryRow(ctx, fmt.Sprintf("SELECT %d + $1::int", i), turn).Scan(&sum))
			check(sum == i+turn, "a statement of many")
		}
	}
	var mine int
	must(session.QueryRow(ctx, "SELECT count(*) FROM pgx_rows WHERE i = $1", number).Scan(&mine))
	check(mine == rounds/2, "rows")
}

func all(ctx context.Context, options string) {
	config, err := pgxpool.ParseConfig(options)
	must(err)
	config.MaxConns = clients
	pool, err := pgxpool.ConnectConfig(ctx, config)
	must(err)
	defer pool.Close()
	_, err = pool.Exec(ctx, "CREATE TABLE pgx_rows (i int, turn int)")
	must(err)
	var group sync.WaitGroup
	for number := 0; number < clients; number++ {
		group.Add(1)
		go func(number int) {
			defer group.Done()
			client(ctx, pool, number)
		}(number)
	}
	group.Wait()
	copied, err := pool.CopyFrom(ctx, pgx.Identifier{"pgx_rows"}, []string{"i", "turn"},
		pgx.CopyFromSlice(1000, func(i int) ([]interface{}, error) { return []interface{}{i, -1}, nil }))
	must(err)
	check(copied == 1000, "copied")
	_, err = pool.Exec(ctx, "DROP TABLE pgx_rows")
	must(err)
}

func heard(ctx context.Context) {
	listener, err := pgx.Connect(ctx, "database=postgres")
	must(err)
	defer listener.Close(ctx)
	_, err = listener.Exec(ctx, "LISTEN pgx_news")
	must(err)
	other, err := pgx.Connect(ctx, "database=postgres")
	must(err)
	defer other.Close(ctx)
	_, err = other.Exec(ctx, "SELECT pg_notify('pgx_news', $1)", "zwölf")
	must(err)
	news, err := listener.WaitForNotification(ctx)
	must(err)
	check(news.Payload == "zwölf", "heard")
	_, err = listener.Exec(ctx, "UNLISTEN pgx_news")
	must(err)
	brief, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	_, err = other.Exec(brief, "SELECT pg_sleep(60)")
	check(err != nil && other.IsClosed(), "a context's end closes the connection")
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Second)
	defer cancel()
	all(ctx, "database=postgres statement_cache_capacity=5")
	all(ctx, "database=postgres statement_cache_mode=describe")
	heard(ctx)
}
