// What users of JDBC do, from more threads than the proxy has connections.
// Reached by PGHOST, PGPORT, PGUSER, PGPASSWORD, PGSSLROOTCERT. Fails by its exit status.

import java.io.StringReader;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.Callable;
import java.util.concurrent.CyclicBarrier;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;

public class JdbcClient {
    static final int CLIENTS = 16;
    static final int ROUNDS = 12;
    static final CyclicBarrier end = new CyclicBarrier(CLIENTS);

    static Connection connect(String... options) throws SQLException {
        Properties properties = new Properties();
        properties.setProperty("user", System.getenv("PGUSER"));
        properties.setProperty("password", System.getenv("PGPASSWORD"));
        properties.setProperty("sslmode", "verify-full");
        properties.setProperty("sslrootcert", System.getenv("PGSSLROOTCERT"));
        for (int i = 0; i < options.length; i += 2) properties.setProperty(options[i], options[i + 1]);
        String address = System.getenv("PGHOST") + ":" + System.getenv("PGPORT");
        return DriverManager.getConnection("jdbc:postgresql://" + address + "/postgres", properties);
    }

    static void check(boolean condition, String what) {
        if (!condition) throw new AssertionError(what);
    }

    static String value(Connection session, String sql) throws SQLException {
        try (Statement statement = session.createStatement(); ResultSet found = statement.executeQuery(sql)) {
            found.next();
            return found.getString(1);
        }
    }

    // A statement is prepared by name on the server from its fifth run on (prepareThreshold).
    static Void client(int number) throws Exception {
        try (Connection session = connect()) {
            check(session.isValid(30), "valid");
            session.setAutoCommit(false);
            session.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
            try (PreparedStatement sum = session.prepareStatement("SELECT ?::int + ?::int");
                    PreparedStatement insert = session.prepareStatement("INSERT INTO jdbc_rows VALUES (?, ?)")) {
                for (int turn = 0; turn < ROUNDS; turn++) {
                    sum.setInt(1, number);
                    sum.setInt(2, turn);
                    try (ResultSet found = sum.executeQuery()) {
                        check(found.next() && found.getInt(1) == number + turn, "sum");
                    }
                    Savepoint savepoint = session.setSavepoint();
                    try (Statement failing = session.createStatement()) {
                        failing.executeQuery("SELECT 1/0");
                        throw new AssertionError("divided by zero");
                    } catch (SQLException error) {
                        check(error.getSQLState().equals("22012"), error.toString());
                    }
                    session.rollback(savepoint);
                    for (int i = 0; i < 5; i++) {
                        insert.setInt(1, number);
                        insert.setInt(2, turn);
                        insert.addBatch();
                    }
                    insert.executeBatch();
                    if (turn % 2 == 0) session.commit();
                    else session.rollback();
                }
            }
            check(value(session, "SHOW transaction_isolation").equals("serializable"), "isolation");
            session.commit();
            try (Statement cursor = session.createStatement()) {
                cursor.setFetchSize(100);
                ResultSet found = cursor.executeQuery("SELECT generate_series(1, 450)");
                int rows = 0;
                while (found.next()) rows++;
                check(rows == 450, "rows by a cursor");
            }
            session.commit();
            session.setReadOnly(true);
            try (Statement refused = session.createStatement()) {
                refused.executeUpdate("DELETE FROM jdbc_rows");
                throw new AssertionError("wrote in a transaction that only reads");
            } catch (SQLException error) {
                check(error.getSQLState().equals("25006"), error.toString());
            }
            session.rollback();
            String mine = value(session, "SELECT count(*) FROM jdbc_rows WHERE i = " + number);
            check(mine.equals(String.valueOf(ROUNDS / 2 * 5)), "rows inserted: " + mine);
            session.commit();
            end.await(); // nobody's connection is free because its client has left
        }
        return null;
    }

    // The driver's own remedies: for a plan that no longer fits, and for statements that another way has closed.
    static void changed() throws Exception {
        try (Connection session = connect("autosave", "conservative"); Connection other = connect()) {
            session.createStatement().execute("CREATE TABLE jdbc_changed AS SELECT 1 AS a");
            session.setAutoCommit(false);
            PreparedStatement all = session.prepareStatement("SELECT * FROM jdbc_changed");
            for (int i = 0; i < 8; i++) {
                all.executeQuery();
                session.commit();
            }
            other.createStatement().execute("ALTER TABLE jdbc_changed ADD b int DEFAULT 2");
            for (int i = 0; i < 8; i++) {
                ResultSet found = all.executeQuery();
                check(found.next() && found.getInt(2) == 2, "a column more");
                session.commit();
            }
            session.createStatement().execute("DEALLOCATE ALL");
            session.commit();
            check(all.executeQuery().next(), "prepared again");
            session.commit();
            session.createStatement().execute("DROP TABLE jdbc_changed");
            session.commit();
        }
    }

    // Few statements are kept: most are closed again.
    static void evicted() throws SQLException {
        try (Connection session = connect("preparedStatementCacheQueries", "5", "prepareThreshold", "1")) {
            for (int round = 0; round < 3; round++)
                for (int i = 0; i < 20; i++)
                    try (PreparedStatement one = session.prepareStatement("SELECT ?::int + " + i)) {
                        one.setInt(1, 1);
                        ResultSet found = one.executeQuery();
                        check(found.next() && found.getInt(1) == i + 1, "evicted");
                    }
        }
    }

    static void simple() throws SQLException {
        try (Connection session = connect("preferQueryMode", "simple");
                PreparedStatement one = session.prepareStatement("SELECT ?::text")) {
            one.setString(1, "zwölf");
            ResultSet found = one.executeQuery();
            check(found.next() && found.getString(1).equals("zwölf"), "simple");
        }
    }

    static void copied() throws Exception {
        try (Connection session = connect()) {
            StringBuilder rows = new StringBuilder();
            for (int i = 0; i < 1000; i++) rows.append(i).append("\t-1\n");
            PGConnection own = session.unwrap(PGConnection.class);
            long copied = own.getCopyAPI().copyIn("COPY jdbc_rows FROM STDIN", new StringReader(rows.toString()));
            check(copied == 1000, "copied in");
            java.io.StringWriter out = new java.io.StringWriter();
            own.getCopyAPI().copyOut("COPY (SELECT * FROM jdbc_rows WHERE turn = -1) TO STDOUT", out);
            check(out.toString().equals(rows.toString()), "copied out");
            session.setAutoCommit(false);
            org.postgresql.largeobject.LargeObjectManager objects = own.getLargeObjectAPI();
            long id = objects.createLO();
            try (org.postgresql.largeobject.LargeObject object = objects.open(id)) {
                object.write(new byte[100_000]);
                check(object.size() == 100_000, "large object");
            }
            objects.delete(id);
            session.commit();
        }
    }

    static void listened() throws SQLException {
        try (Connection listener = connect(); Connection other = connect()) {
            listener.createStatement().execute("LISTEN jdbc_news");
            other.createStatement().execute("NOTIFY jdbc_news, 'zwölf'");
            PGNotification[] heard = listener.unwrap(PGConnection.class).getNotifications(20_000);
            check(heard != null && heard[0].getParameter().equals("zwölf"), "heard");
            listener.createStatement().execute("UNLISTEN jdbc_news");
        }
    }

    static void cancelled() throws SQLException {
        try (Connection session = connect(); Statement slow = session.createStatement()) {
            slow.setQueryTimeout(1);
            slow.execute("SELECT pg_sleep(60)");
            throw new AssertionError("not cancelled");
        } catch (SQLException error) {
            check(error.getSQLState().equals("57014"), error.toString());
        }
    }

    public static void main(String[] arguments) throws Exception {
        try (Connection session = connect()) {
            session.createStatement().execute("CREATE TABLE jdbc_rows (i int, turn int)");
        }
        ExecutorService threads = Executors.newFixedThreadPool(CLIENTS);
        List<Callable<Void>> clients = new ArrayList<>();
        for (int i = 0; i < CLIENTS; i++) {
            int number = i;
            clients.add(() -> client(number));
        }
        for (Future<Void> one : threads.invokeAll(clients)) one.get();
        threads.shutdown();
        changed();
        evicted();
        simple();
        copied();
        listened();
        cancelled();
        try (Connection session = connect()) {
            session.createStatement().execute("DROP TABLE jdbc_rows");
        }
    }
}
